"""Greedy and beam search against `generate` of transformers, the same weights on both sides.

PyTorch may live in another environment: LLM_JAX_TORCH_PYTHON names its Python.
"""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest

from llm_jax import hub
from llm_jax.inference.beam import BeamSearch
from llm_jax.inference.generate import Generator
from llm_jax.inference.sampling import Sampling
from llm_jax.models import gpt, t5
from llm_jax.models.t5_sizes import T5Config

PYTHON = os.environ.get("LLM_JAX_TORCH_PYTHON") or (sys.executable if importlib.util.find_spec("torch") else None)
PROMPTS = [[1, 2, 3, 4], [11, 12, 13, 14], [5, 4, 3, 2]]
GREEDY = [dict(), dict(repetition_penalty=1.3)]
BEAMS = [dict(num_beams=n, length_penalty=p, early_stopping=e, repetition_penalty=r)
         for n, p, e, r in [(2, 1.0, False, 1.0), (4, 0.0, True, 1.0), (4, 1.5, "never", 1.0), (3, -1.0, "never", 1.0),
                            (4, 1.0, True, 1.2), (5, 2.0, False, 1.0)]]
PEER = """
import json, sys, torch, transformers
folder, prompts, greedy, beams = json.loads(sys.stdin.read())
name = json.load(open(folder + "/config.json"))["architectures"][0]
model = getattr(transformers, name).from_pretrained(folder).eval()
ids = torch.tensor(prompts)
skipped = 1 if model.config.is_encoder_decoder else ids.shape[1]
common = dict(attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, eos_token_id=[7, 9],
              pad_token_id=0)
print(json.dumps([model.generate(ids, **common, **o)[:, skipped:].tolist() for o in greedy + beams]))
"""


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason="no PyTorch: set LLM_JAX_TORCH_PYTHON")
@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_the_same_tokens_as_transformers(kind, tmp_path):
  if kind == "gpt2":
    model, louder = gpt.build(31, 32, variant="debug", width=32, depth=2, heads=4, positions=32), 5.0
  else:
    model, louder = t5.from_config(T5Config(31, 32, 2, heads=4, head_width=6, hidden=40)), 1.5
  params = {n: a * louder if n.endswith(("kernel", "embedding")) else a
            for n, a in jax.jit(model.init)(jax.random.key(0)).items()}
  hub.save(tmp_path, model, params)
  request = json.dumps([str(tmp_path), PROMPTS, GREEDY, BEAMS])
  answer = subprocess.run([PYTHON, "-c", PEER], input=request, capture_output=True, text=True)
  assert answer.returncode == 0, answer.stderr[-2000:]
  expected = json.loads(answer.stdout.splitlines()[-1])
  generator = Generator(model, params)
  searcher = BeamSearch(generator)
  ours = [[row.tokens for row in generator.generate(PROMPTS, max_new_tokens=12, eos_ids=[7, 9],
                                                    sampling=Sampling(greedy=True, **o))] for o in GREEDY]
  ours += [[row[0].tokens for row in searcher.search(PROMPTS, max_new_tokens=12, eos_ids=[7, 9], **o)] for o in BEAMS]
  for options, mine, theirs in zip(GREEDY + BEAMS, ours, expected):
    padded = [row + [0] * (len(theirs[0]) - len(row)) for row in mine]
    assert padded == theirs, options
