"""Bottleneck adapters are the identity at first, train only their own arrays, and sit where the papers put them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.models import bert, deberta, decoder, gpt, t5, xlnet
from llm_jax.optimizers import masks
from llm_jax.peft import bottleneck

IDS = np.array([[1, 2, 3, 4], [5, 6, 7, 1]], np.int32)
KINDS = ("houlsby", "pfeiffer")


def causal(**changes):
  return gpt.from_config(gpt.GPTConfig(**dict(vocab_size=11, positions=8, width=16, depth=3, heads=2) | changes))


def encoder(**changes):
  return bert.from_config(bert.BertConfig(**dict(vocab_size=11, positions=8, width=16, depth=3, heads=2, hidden=32)
                                          | changes))


def arrays(model, seed=0):
  random = np.random.default_rng(seed)
  return {n: jnp.asarray(0.3 * random.normal(size=s.shape), jnp.float32) for n, s in model.shapes.items()}


def logits(model, params, **inputs):
  call = jax.jit(lambda params, inputs: model.apply(params, **inputs).logits)
  return np.asarray(call(params, dict(input_ids=IDS) | inputs))


def added(adapted, model):
  return sorted(adapted.shapes.keys() - model.shapes.keys())


@pytest.mark.parametrize("make", [causal, encoder])
@pytest.mark.parametrize("kind", KINDS)
def test_at_first_it_is_the_same_function_and_the_old_names_are_there(kind, make):
  model = make()
  adapted = bottleneck.build(kind=kind, size=3).adapt(model)
  params = arrays(model)
  fresh = adapted.init(jax.random.key(0))
  new = {n: fresh[n] for n in added(adapted, model)}
  assert model.shapes.keys() <= adapted.shapes.keys() and new
  assert all((np.asarray(p) == 0).all() != n.endswith("down.kernel") for n, p in new.items())
  np.testing.assert_array_equal(logits(model, params), logits(adapted, params | new))
  trained = arrays(adapted)
  assert np.abs(logits(adapted, trained) - logits(model, {n: trained[n] for n in model.shapes})).max() > 0.1


@pytest.mark.parametrize("kind, make, where", [
    ("houlsby", causal, ["blocks.attention.out", "blocks.feed_forward.down"]),
    ("pfeiffer", causal, ["blocks.feed_forward.down"]),
    ("houlsby", encoder, ["encoder.blocks.attention.out", "encoder.blocks.feed_forward.down"]),
    ("pfeiffer", encoder, ["encoder.blocks.feed_forward_norm"]),
    ("houlsby", lambda: t5.build(11, 4, variant="debug"),
     [f"{side}.blocks.{part}" for side, part in (
         ("decoder", "attention.out"), ("decoder", "cross_attention.out"), ("decoder", "feed_forward.down"),
         ("encoder", "attention.out"), ("encoder", "feed_forward.down"))]),
    ("pfeiffer", lambda: xlnet.build(11, 4, variant="debug"), ["blocks.feed_forward_norm"]),
    ("pfeiffer", lambda: deberta.build(11, 4, variant="debug"), ["blocks.feed_forward_norm"]),
])
def test_adapters_are_where_the_papers_put_them(kind, make, where):
  model = make()
  found = {n.split(".adapter.")[0] for n in added(bottleneck.build(kind=kind).adapt(model), model)}
  assert sorted(found) == where


def test_an_adapter_after_a_norm_is_the_published_formula():
  adapted = bottleneck.build(kind="pfeiffer", size=3, act="silu").adapt(encoder(depth=1))
  params = arrays(adapted)
  norm = adapted.bind({n: p[0] if n.startswith("encoder.blocks.") else p for n, p in params.items()})
  norm = norm.encoder.blocks.feed_forward_norm
  s = jnp.asarray(np.random.default_rng(1).normal(size=(2, 16)), jnp.float32)
  at = lambda name: params[f"encoder.blocks.feed_forward_norm.{name}"][0]
  plain = lambda x: ((x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-12) * at("scale")
                     + at("bias"))
  inner = jax.nn.silu(plain(s) @ at("adapter.down.kernel") + at("adapter.down.bias"))
  want = plain(s + inner @ at("adapter.up.kernel") + at("adapter.up.bias"))
  np.testing.assert_allclose(norm(s), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [causal, encoder])
@pytest.mark.parametrize("kind", KINDS)
def test_a_scanned_stack_is_an_unrolled_one(kind, make):
  method = bottleneck.build(kind=kind, size=3)
  scanned, unrolled = method.adapt(make()), method.adapt(make(scan=False))
  params = arrays(scanned)
  np.testing.assert_allclose(logits(scanned, params), logits(unrolled, params), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_token_sees_a_later_one(kind):
  adapted = bottleneck.build(kind=kind, size=3).adapt(causal())
  params, changed = arrays(adapted), IDS.copy()
  changed[:, -1] = 9
  before, after = logits(adapted, params), logits(adapted, params, input_ids=changed)
  np.testing.assert_array_equal(before[:, :-1], after[:, :-1])
  assert np.abs(before[:, -1] - after[:, -1]).max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind):
  adapted = bottleneck.build(kind=kind, size=3).adapt(encoder())
  params = arrays(adapted)
  padded, mask = np.pad(IDS, ((0, 0), (0, 3))), np.pad(np.ones_like(IDS), ((0, 0), (0, 3)))
  got = logits(adapted, params, input_ids=padded, attention_mask=mask)[:, :4]
  np.testing.assert_allclose(got, logits(adapted, params), rtol=1e-5, atol=1e-5)


def test_only_the_new_arrays_are_trained():
  model = causal()
  method = bottleneck.build(kind="houlsby", train="final_norm")
  adapted = method.adapt(model)
  trained, _ = masks.split(adapted.shapes, method.freeze)
  assert set(trained) == {*added(adapted, model), "final_norm.bias", "final_norm.scale"}


def test_layers_of_a_stack_start_differently():
  params = bottleneck.build(size=3).adapt(causal()).init(jax.random.key(0))
  down = params["blocks.feed_forward.down.adapter.down.kernel"]
  assert down.shape == (3, 16, 3) and not np.allclose(down[0], down[1])


def test_what_has_no_place_for_an_adapter_is_refused():
  with pytest.raises(ConfigError, match="takes no parameter"):
    bottleneck.build(targets="atention").adapt(causal())
  with pytest.raises(ConfigError, match="after experts"):
    bottleneck.build().adapt(decoder.build(11, 4, variant="debug", experts=2, experts_per_token=1, expert_hidden=8))
  with pytest.raises(ConfigError, match="unknown activation"):
    bottleneck.build(act="rellu")
