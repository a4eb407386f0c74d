"""Laws of ELECTRA's pair: what it shares, its halves, the generator's size, devices, precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import agree, parameters

from llm_jax import hub
from llm_jax.core.errors import ConfigError
from llm_jax.models import electra
from llm_jax.parallel import mesh as device_mesh
from llm_jax.parallel.rules import ShardingRules, use

VOCAB, LENGTH = 29, 12
SMALL = dict(variant="debug", width=32, heads=4, hidden=48, embed_width=24, attention="xla")


def build(**knobs):
  return electra.build(VOCAB, LENGTH, **SMALL | knobs)


@functools.cache
def made(**knobs):
  model = build(**knobs)
  return model, parameters(model, 0.2)


def tokens():
  return jax.random.randint(jax.random.key(0), (4, LENGTH), 2, VOCAB)


def losses(model, params):
  """Stand-ins for the two losses."""
  written = model.apply(params, tokens(), method="generator")
  judged = model.apply(params, tokens(), method="discriminator")
  return jnp.square(written.logits.astype(jnp.float32)).mean(), jnp.square(judged.scores.astype(jnp.float32)).mean()


def test_the_generator_scores_tokens_and_the_discriminator_places():
  model, params = made()
  assert model.apply(params, tokens(), method="generator").logits.shape == (4, LENGTH, VOCAB)
  judged = model.apply(params, tokens(), method="discriminator").scores
  assert judged.shape == (4, LENGTH)
  np.testing.assert_array_equal(model.apply(params, tokens()).scores, judged)
  assert model.offers == {"replaced_token"}


@pytest.mark.parametrize("shared", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_each_loss_moves_its_own_half_and_the_embeddings_that_are_shared(shared):
  model, params = made(shared=shared)
  grads = jax.jit(jax.jacrev(lambda p: jnp.stack(losses(model, p))))(params)
  moved = {n: np.abs(g).reshape(2, -1).max(1) > 0 for n, g in grads.items()}
  for name, (by_generator, by_discriminator) in moved.items():
    if name.endswith("attention.key.bias"):  # softmax does not see it
      continue
    own_tables = name.startswith("replaced.embeddings.")
    assert by_generator == (name.startswith("masked.") or (own_tables and shared)), name
    assert by_discriminator == name.startswith("replaced."), name


@pytest.mark.parametrize("shared", [True, False])
def test_the_halves_are_the_networks_that_were_trained_and_are_saved_as_such(shared, tmp_path):
  model, params = made(shared=shared)
  hub.save(tmp_path, model, params)
  for name, (half, own) in electra.halves(model, params).items():
    want = model.apply(params, tokens(), method=name).logits
    np.testing.assert_allclose(half.apply(own, tokens()).logits, want, atol=1e-6)
    again, found, _ = hub.load(tmp_path / name)
    assert again.config.head == half.config.head and found.keys() == own.keys()
    assert all(np.array_equal(found[n], own[n]) for n in own)


def test_the_generator_has_its_share_of_widths_and_heads():
  pair = build(heads=4, generator=0.25).config
  assert (pair.generator.width, pair.generator.heads, pair.generator.hidden) == (8, 1, 12)
  assert pair.generator.depth == pair.discriminator.depth and pair.generator.embed_width == 24
  published = electra.build(30_522, 128, variant="base").config.generator
  assert (published.width, published.heads, published.hidden, published.embed_width) == (256, 4, 1024, 768)
  for wrong in (0.3, 0.0, 1.5):
    with pytest.raises(ConfigError, match="generator"):
      build(generator=wrong)


@pytest.mark.parametrize("variant, want", [("small", 13_483_008), ("base", 108_891_648), ("large", 334_092_288)])
def test_published_parameter_counts(variant, want):
  assert electra.build(30_522, 128, variant=variant, head="none").size == want


@pytest.mark.slow
def test_one_device_equals_eight():
  model, params = made()
  loss = lambda p: sum(losses(model, p))
  want = jax.jit(jax.value_and_grad(loss))(params)
  rules = ShardingRules(device_mesh.make(dict(data=2, fsdp=2, tensor=2)))
  shardings = rules.for_params(model.logical_axes, model.shapes)
  with use(rules):
    got = jax.jit(jax.value_and_grad(loss))({n: jax.device_put(p, shardings[n]) for n, p in params.items()})
  agree(got, want, 2e-4)


@pytest.mark.slow
def test_gradients_are_finite_in_bfloat16():
  model = build(dtype="bfloat16")
  grads = jax.jit(jax.grad(lambda p: sum(losses(model, p))))(made()[1])
  assert all(bool(jnp.isfinite(g).all()) for g in grads.values())
