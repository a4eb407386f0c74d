"""Prompts, prefixes and P-tuning: what they put in front acts as tokens would, and is all that is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.models import bert, decoder, gpt
from llm_jax.optimizers import masks
from llm_jax.peft import p_tuning, prefix_tuning, prompt_tuning

IDS = np.array([[1, 2, 3, 4], [5, 6, 7, 1]], np.int32)
AHEAD = np.array([8, 9, 3], np.int32)
METHODS = {"prompt": prompt_tuning.build(tokens=3), "p": p_tuning.build(tokens=3, hidden=6),
           "prefix": prefix_tuning.build(tokens=3), "projected": prefix_tuning.build(tokens=3, hidden=6)}
MODELS = {"gpt": lambda **changes: gpt.build(11, 4, variant="debug", width=16, heads=2, positions=16, **changes),
          "decoder": lambda **changes: decoder.build(11, 4, variant="debug", width=16, heads=4, kv_heads=2,
                                                     head_width=4, hidden=24, **changes)}
FAST = (("prompt", "gpt"), ("p", "decoder"), ("prefix", "decoder"), ("projected", "gpt"))
every_method, every_model = pytest.mark.parametrize("method", METHODS), pytest.mark.parametrize("base", MODELS)
every_pair = pytest.mark.parametrize("method, base", [
    (m, b) if (m, b) in FAST else pytest.param(m, b, marks=pytest.mark.slow) for m in METHODS for b in MODELS])


def arrays(model, seed=0):
  random = np.random.default_rng(seed)
  return {n: jnp.asarray(0.4 * random.normal(size=s.shape), jnp.float32) for n, s in model.shapes.items()}


def logits(model, params, input_ids=IDS, static=(), **inputs):
  static = dict(static)
  call = jax.jit(lambda params, ids, inputs: model.apply(params, input_ids=ids, **inputs, **static).logits)
  return np.asarray(call(params, input_ids, inputs))


def close(a, b):
  np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@every_model
def test_a_prompt_of_token_vectors_is_those_tokens_in_front(base):
  model = MODELS[base]()
  adapted, params = METHODS["prompt"].adapt(model), arrays(model)
  prompt = {"tokens.prompt.embedding": params["tokens.embedding"][AHEAD]}
  whole = logits(model, params, np.concatenate([np.tile(AHEAD, (2, 1)), IDS], 1))
  close(logits(adapted, params | prompt), whole[:, 3:])
  close(logits(adapted, params | prompt, static=dict(virtual_tokens=True)), whole)


@every_model
def test_a_prefix_of_what_tokens_leave_in_a_cache_is_those_tokens_in_front(base):
  model = MODELS[base]()
  adapted, params = METHODS["prefix"].adapt(model), arrays(model)
  cache = model.apply(params, method="init_cache", batch=1, length=3)
  cache = jax.jit(lambda params, cache: model.apply(params, input_ids=AHEAD[None], cache=cache).cache)(params, cache)
  prefix = jnp.stack([cache["key"], cache["value"]], 1)[:, :, 0].transpose(2, 0, 1, 3, 4).reshape(3, -1)
  whole = logits(model, params, np.concatenate([np.tile(AHEAD, (2, 1)), IDS], 1))
  close(logits(adapted, params | {"prefix.embedding": prefix}), whole[:, 3:])


@pytest.mark.parametrize("made, plain, where", [("p", "prompt", "tokens.prompt"), ("projected", "prefix", "prefix")])
def test_the_network_of_a_prompt_says_what_vectors_may_say(made, plain, where):
  model = MODELS["gpt"]()
  made, plain = METHODS[made].adapt(model), METHODS[plain].adapt(model)
  params = arrays(made)
  module = made.bind(params)
  vectors = module.prefix() if where == "prefix" else module.tokens.prompt()
  first = params[f"{where}.embedding"] @ params[f"{where}.maps.0.kernel"] + params[f"{where}.maps.0.bias"]
  if where == "prefix":
    close(vectors, jnp.tanh(first) @ params["prefix.maps.1.kernel"] + params["prefix.maps.1.bias"])
  base = {n: params[n] for n in model.shapes}
  close(logits(made, params), logits(plain, base | {f"{where}.embedding": vectors}))


@every_pair
def test_a_scanned_stack_is_an_unrolled_one(method, base):
  scanned, unrolled = (METHODS[method].adapt(MODELS[base](scan=scan)) for scan in (True, False))
  params = arrays(scanned)
  close(logits(scanned, params), logits(unrolled, params))


@pytest.mark.slow
@pytest.mark.parametrize("method, remat", [("p", "split"), ("projected", "split"), ("projected", "full")])
def test_recomputing_changes_no_gradient(method, remat):
  def gradient(remat):
    model = METHODS[method].adapt(MODELS["gpt"](remat=remat))
    loss = lambda params: jnp.square(model.apply(params, input_ids=IDS).logits).sum()
    return jax.jit(jax.grad(loss))(arrays(model))
  plain, other = gradient("none"), gradient(remat)
  for name, g in plain.items():
    np.testing.assert_allclose(other[name], g, rtol=1e-3, atol=1e-3 * float(jnp.abs(g).max()), err_msg=name)


@every_pair
def test_no_token_sees_a_later_one(method, base):
  model = METHODS[method].adapt(MODELS[base]())
  params, changed = arrays(model), IDS.copy()
  changed[:, -1] = 9
  before, after = logits(model, params), logits(model, params, changed)
  np.testing.assert_array_equal(before[:, :-1], after[:, :-1])
  assert np.abs(before[:, -1] - after[:, -1]).max() > 0.01


@every_pair
def test_padding_and_packing_change_nothing(method, base):
  model = METHODS[method].adapt(MODELS[base]())
  params = arrays(model)
  alone = logits(model, params)
  mask = np.pad(np.ones_like(IDS), ((0, 0), (0, 2)))
  close(logits(model, params, np.pad(IDS, ((0, 0), (0, 2))), attention_mask=mask)[:, :4], alone)
  packed = dict(segment_ids=np.array([[1] * 4 + [2] * 4 + [0]]), position_ids=np.array([[0, 1, 2, 3] * 2 + [0]]))
  got = logits(model, params, np.pad(IDS.reshape(1, 8), ((0, 0), (0, 1))), **packed)
  close(got[:, :8].reshape(alone.shape), alone)


@every_pair
def test_cached_decoding_is_the_whole_call(method, base):
  model = METHODS[method].adapt(MODELS[base]())
  params = arrays(model)
  cache = model.apply(params, method="init_cache", batch=2, length=6)
  call, whole = jax.jit(lambda params, inputs: model.apply(params, **inputs)), logits(model, params)
  left = np.pad(IDS[:, :2], ((0, 0), (1, 0)))  # a shorter prompt, padded on the left
  output = call(params, dict(input_ids=left, attention_mask=np.array([[0, 1, 1]] * 2), cache=cache))
  close(output.logits[:, 1:], whole[:, :2])
  for i in (2, 3):
    output = call(params, dict(input_ids=IDS[:, i:i + 1], cache=output.cache))
    close(output.logits[:, 0], whole[:, i])


@every_pair
def test_only_the_new_arrays_are_trained_and_the_old_names_are_there(method, base):
  model = MODELS[base]()
  adapted = METHODS[method].adapt(model)
  trained, frozen = masks.split(adapted.shapes, METHODS[method].freeze)
  assert set(frozen) == set(model.shapes) and set(trained) == adapted.shapes.keys() - model.shapes.keys()
  gradient = jax.jit(jax.grad(lambda p: jnp.square(adapted.apply(p, input_ids=IDS).logits).sum()))(arrays(adapted))
  assert all(np.abs(gradient[n]).max() > 0 for n in trained)


def test_other_heads_of_a_decoder_take_a_prefix():
  config = gpt.GPTConfig(vocab_size=11, positions=16, width=16, depth=2, heads=2, head="sequence", pad_token=0)
  model = METHODS["prefix"].adapt(gpt.from_config(config))
  assert logits(model, arrays(model)).shape == (2, 2)


@every_method
def test_what_cannot_be_is_refused(method):
  with pytest.raises(ConfigError, match=r"needs? a (decoder|model that scores)"):
    METHODS[method].adapt(bert.build(11, 4, variant="debug"))
  with pytest.raises(ConfigError, match=r"config\.peft\.tokens"):
    METHODS[method].adapt(gpt.from_config(gpt.GPTConfig(11, positions=3, width=16, depth=1, heads=2)))
  model = METHODS[method].adapt(gpt.from_config(gpt.GPTConfig(11, positions=6, width=16, depth=1, heads=2)))
  assert model.config.positions == 3  # are left for text
  with pytest.raises(ConfigError, match=r"config\.model\.positions"):
    model.apply(arrays(model), input_ids=IDS)
