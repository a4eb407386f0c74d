"""Folders of prompts, prefixes and bottleneck adapters: saved and loaded they compute the same, in every family."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import hub
from llm_jax.core.errors import CheckpointError, ConfigError
from llm_jax.hub import adapters
from llm_jax.models import bert, decoder, gpt, t5
from llm_jax.peft import bottleneck, p_tuning, prefix_tuning, prompt_tuning

IDS = np.array([[1, 2, 3, 4], [5, 6, 7, 1]], np.int32)
BASES = {"gpt": lambda: gpt.build(11, 4, variant="debug", width=16, heads=2, positions=16),
         "llama": lambda: decoder.build(11, 4, variant="debug", width=16, heads=4, kv_heads=2, head_width=4, hidden=24),
         "gemma": lambda: decoder.build(11, 4, variant="debug-gemma", width=16, heads=2, kv_heads=1, head_width=8,
                                        hidden=24),
         "bert": lambda: bert.build(11, 4, variant="debug", width=16, heads=2, hidden=24),
         "t5": lambda: t5.build(11, 4, variant="debug")}


def arrays(model, seed=0):
  random = np.random.default_rng(seed)
  return {n: jnp.asarray(0.4 * random.normal(size=s.shape), jnp.float32) for n, s in model.shapes.items()}


def logits(model, params):
  more = {"decoder_input_ids": IDS} if "encoder_decoder" in model.offers else {}
  return np.asarray(model.apply(params, input_ids=IDS, **more).logits)


def saved(tmp_path, method, base):
  """(model, its parameters) and the folder of its adapter, whose base lies beside it."""
  plain = BASES[base]()
  model = method.adapt(plain)
  params = arrays(model)
  hub.save(tmp_path / "base", plain, {n: params[n] for n in plain.shapes})
  hub.save_adapter(tmp_path / "adapter", model, params, base="../base")
  return model, params, tmp_path / "adapter"


@pytest.mark.parametrize("base, method", [
    ("gpt", prompt_tuning.build(tokens=3)), ("gemma", prompt_tuning.build(tokens=3)),
    ("llama", p_tuning.build(tokens=3, hidden=6)), ("gpt", prefix_tuning.build(tokens=3)),
    ("llama", prefix_tuning.build(tokens=3, hidden=6)),
    ("bert", bottleneck.build(kind="houlsby", size=3)), ("bert", bottleneck.build(kind="pfeiffer", size=3)),
    ("llama", bottleneck.build(kind="pfeiffer", size=3)),
    pytest.param("t5", bottleneck.build(kind="houlsby", size=3), marks=pytest.mark.slow)])
def test_a_saved_adapter_computes_the_same(tmp_path, base, method):
  model, params, folder = saved(tmp_path, method, base)
  again, found, _ = hub.load(folder)
  np.testing.assert_allclose(logits(again, found), logits(model, params), rtol=1e-5, atol=1e-5)
  hub.save_adapter(tmp_path / "twice", again, found, base="../base")
  first, second = (adapters.read_tensors(tmp_path / name) for name in ("adapter", "twice"))
  assert first.keys() == second.keys()
  for name, tensor in first.items():
    np.testing.assert_allclose(second[name], tensor, rtol=1e-6, atol=0, err_msg=name)


def test_a_prompt_of_gemma_is_in_units_of_its_scaled_embedding(tmp_path):
  model, params, folder = saved(tmp_path, prompt_tuning.build(tokens=3), "gemma")
  theirs = adapters.read_tensors(folder)["prompt_embeddings"]
  assert model.config.scale_embedding
  np.testing.assert_allclose(theirs, 4.0 * np.asarray(params["tokens.prompt.embedding"]), rtol=1e-6)


def test_a_whole_folder_of_what_cannot_be_merged_is_refused(tmp_path):
  model = bottleneck.build().adapt(BASES["bert"]())
  with pytest.raises(ConfigError, match="has an adapter"):
    hub.save(tmp_path / "whole", model, model.init(jax.random.key(0)))


@pytest.mark.parametrize("change, error, says", [
    (dict(num_virtual_tokens=4), CheckpointError, "needs"),
    (dict(num_transformer_submodules=2), ConfigError, "num_transformer_submodules"),
    (dict(prompt_length_of_another_method=7), ConfigError, "is not supported"),
])
def test_what_an_adapter_says_is_checked(tmp_path, change, error, says):
  _, _, folder = saved(tmp_path, prompt_tuning.build(tokens=3), "gpt")
  file = folder / "adapter_config.json"
  file.write_text(json.dumps(json.loads(file.read_text()) | change))
  with pytest.raises(error, match=says):
    hub.load(folder)
