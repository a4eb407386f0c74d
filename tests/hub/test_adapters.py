"""An adapter folder is its tensors by peft's names: it loads to the same function, saves back, and merges."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from llm_jax import hub
from llm_jax.core import plugins
from llm_jax.core.errors import CheckpointError, ConfigError
from llm_jax.models import decoder, decoder_config, gpt
from llm_jax.optimizers import masks

IDS = np.array([[1, 2, 3, 4], [5, 6, 7, 1]], np.int32)
METHODS = {
    "lora": dict(name="lora", rank=2, targets="."),
    "rslora with a norm": dict(name="lora", rank=3, stabilised=True, train="final_norm"),
    "ranks by layer": dict(name="lora", rank=3, targets="attention", ranks={r"query\[1\]": 2, r"\[0\]": 0},
                           alphas={r"\[2\]": 3.0}),
    "dora": dict(name="dora", rank=2, targets="."),
    "dora by layer": dict(name="dora", rank=2, ranks={r"\[0\]": 0}, train="final_norm"),
    "ia3": dict(name="ia3"),
    "vera": dict(name="vera", rank=5),
    "ln_tuning": dict(name="ln_tuning"),
    "adalora": dict(name="adalora", rank=4, final_rank=2, targets="attention"),
}
SLOW = ("rslora with a norm", "dora by layer")  # relatives of others


def gpt2():
  return gpt.from_config(gpt.GPTConfig(vocab_size=11, positions=8, width=16, depth=3, heads=2))


def llama():
  return decoder.from_config(decoder_config.DecoderConfig(
      family="llama", vocab_size=11, positions=8, width=16, hidden=24, depth=3, heads=4, kv_heads=2, head_width=4))


def drawn(model, seed=0):
  random = np.random.default_rng(seed)
  return {n: jnp.asarray(0.3 * random.normal(size=s.shape), jnp.float32) for n, s in model.shapes.items()}


def made(make, spec):
  """(method, adapted model, parameters as if trained): what has to stay zero, a rank's padding, stays zero."""
  method = plugins.bind("peft", spec, "config.peft")()
  model = method.adapt(make())
  params = dict(method.start(model.init(jax.random.key(0)) | drawn(model.made_of[1])))
  noise = drawn(model, 1)
  for name in masks.split(model.shapes, method.freeze)[0]:
    params[name] = noise[name] if name.endswith(("vera_b", "adalora_e")) else params[name] * (1.0 + noise[name])
    if name.endswith(".lora_b"):
      a = params[name.removesuffix("b") + "a"]
      lead = a.ndim + noise[name].ndim - 2 - params[name.removesuffix("lora_b") + "kernel"].ndim
      used = (a != 0).any(tuple(range(lead, a.ndim - 1)))
      params[name] = noise[name] * used.reshape(*used.shape, *(1,) * (noise[name].ndim - used.ndim))
  return method, model, params


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
  folder = tmp_path_factory.mktemp("bases")
  for make in (gpt2, llama):
    model = make()
    hub.save(folder / make.__name__, model, drawn(model))
  return folder


@pytest.mark.parametrize("make", [gpt2, pytest.param(llama, marks=pytest.mark.slow)], ids=["gpt2", "llama"])
@pytest.mark.parametrize("spec", [pytest.param(s, marks=pytest.mark.slow if n in SLOW else ())
                                  for n, s in METHODS.items()], ids=METHODS)
def test_a_trained_adapter_saves_and_loads_to_the_same_function(make, spec, bases, tmp_path):
  _, model, params = made(make, spec)
  hub.save_adapter(tmp_path / "adapter", model, params, base=str(bases / make.__name__))
  again, found, _ = hub.load(tmp_path / "adapter")
  logits = lambda model, params: np.asarray(jax.jit(lambda p: model.apply(p, input_ids=IDS).logits)(params))
  want = logits(model, params)
  assert np.abs(want - logits(model.made_of[1], drawn(model.made_of[1]))).max() > 1e-3
  np.testing.assert_allclose(logits(again, found), want, rtol=1e-4, atol=1e-5)
  hub.save_adapter(tmp_path / "again", again, found, base=str(bases / make.__name__))
  first, second = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("adapter", "again"))
  assert first.keys() == second.keys() and all(np.array_equal(first[n], second[n]) for n in first)
  plain, merged = again.made_of[1], again.made_of[0].merge(found)
  np.testing.assert_allclose(logits(plain, merged), want, rtol=2e-4, atol=2e-5)


@pytest.fixture
def adapter(bases, tmp_path):
  _, model, params = made(gpt2, METHODS["lora"])
  hub.save_adapter(tmp_path / "a", model, params, base=str(bases / "gpt2"))
  return tmp_path / "a"


def rewritten(folder, **changes):
  path = folder / "adapter_config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))
  return folder


def test_what_peft_says_and_we_do_not_do_is_refused(adapter):
  with pytest.raises(ConfigError, match=r"LORAS.*\n.*LORA"):
    hub.load(rewritten(adapter, peft_type="LORAS"))
  with pytest.raises(ConfigError, match="use_qalora"):
    hub.load(rewritten(adapter, peft_type="LORA", use_qalora=True))
  with pytest.raises(ConfigError, match="init_lora_weights"):
    hub.load(rewritten(adapter, use_qalora=False, init_lora_weights="pissa"))


def test_a_base_that_is_not_there_or_does_not_fit_is_refused(adapter, bases):
  with pytest.raises(CheckpointError, match="no linear module"):
    hub.load(adapter, base=bases / "llama")
  with pytest.raises(ConfigError, match="base_model_name_or_path"):
    hub.load(rewritten(adapter, base_model_name_or_path="nowhere"))


def test_a_whole_folder_of_an_adapted_model_is_refused(tmp_path):
  _, model, params = made(gpt2, METHODS["lora"])
  with pytest.raises(ConfigError, match="save_adapter"):
    hub.save(tmp_path, model, params)
