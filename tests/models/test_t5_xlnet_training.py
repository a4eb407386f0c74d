"""The configs of T5 and XLNet learn: from scratch, on the embedded text, the loss falls below the unigram entropy of
their targets, which is what knowing nothing but the targets' frequencies gives."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import experiment
from llm_jax.core import config as configs
from llm_jax.core.output import Output
from llm_jax.core.types import Plan

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "laws"))
import door  # noqa: E402


def target_entropy(config: str) -> float:
  """Nats per target: of what the objective asks for, found by a network that only looks at what it is given."""
  run = experiment.build(configs.load_file(config))
  seen: list[np.ndarray] = []

  def look(params, input_ids, **inputs):
    if "target_mapping" in inputs:
      asked = jnp.einsum("bpl,bl->bp", inputs["target_mapping"], input_ids).astype(jnp.int32)
      seen.append(np.asarray(asked))
    else:
      asked = inputs["decoder_input_ids"]
      seen.append(np.asarray(asked[:, 1:])[np.asarray(asked[:, 1:]) != int(asked[0, 0])])
    return Output(jnp.zeros((*asked.shape, 1)), unembed=lambda h: jnp.zeros((*h.shape[:-1], run.corpus.vocab_size)))

  for i in range(10):
    batch = {name: jnp.asarray(a) for name, a in run.corpus.train.take(i, Plan(32, 128)).items()}
    run.objective(look, {}, batch, jax.random.key(i), {})
  counts = np.bincount(np.concatenate([a.reshape(-1) for a in seen]))
  share = counts[counts > 0] / counts.sum()
  return float(-(share * np.log(share)).sum())


@pytest.mark.slow
@pytest.mark.parametrize("file, argument", [("t5", "debug"), ("t5", "debug-ul2"), ("t5", "debug-v1.1"),
                                            ("xlnet", "debug")])
def test_targets_are_predicted_better_than_by_their_frequency(file, argument, tmp_path):
  config = f"{ROOT}/configs/{file}.py:{argument}"
  done = door.call(f"--config={config}", f"--workdir={tmp_path}")
  assert done.code == 0, done.err
  final = [row["eval/loss"] for row in door.rows(tmp_path) if "eval/loss" in row][-1]
  assert final < target_entropy(config) - 0.2
