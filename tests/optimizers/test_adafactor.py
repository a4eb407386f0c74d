"""Adafactor equals optax's on a plain matrix and treats each layer of a stack by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.optimizers import chain

SHAPES = {"wide.kernel": (8, 12), "tall.kernel": (12, 8), "small.kernel": (3, 12), "norm.scale": (8,)}


def arrays(seed):
  rng = np.random.default_rng(seed)
  return {n: np.float32(rng.normal(size=s)) for n, s in SHAPES.items()}


def build(params, axes=None, **knobs):
  spec = dict(name="adafactor", peak=0.1, decay="constant", clip=None, min_size=4) | knobs
  return chain.build(spec, params, 10, axes=axes)


def run(transform, params):
  @jax.jit
  def three_steps(params):
    state = transform.init(params)
    for seed in (1, 2, 3):
      updates, state = transform.update(arrays(seed), state, params)
      params = optax.apply_updates(params, updates)
    return params
  return three_steps(params)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_equals_optax_without_a_stack(relative, momentum):
  params = arrays(0)
  ours = build(params, relative=relative, momentum=momentum)
  reference = optax.adafactor(0.1, min_dim_size_to_factor=4, multiply_by_parameter_scale=relative,
                              momentum=momentum or None)
  got, want = run(ours.transform, params), run(reference, params)
  for n in SHAPES:
    np.testing.assert_allclose(got[n], want[n], rtol=2e-6, atol=1e-6, err_msg=n)


def test_first_update_by_hand():
  """At the first step v is the squared gradient itself, factored; clipped to RMS 1; times the parameter's RMS."""
  params, grads = arrays(0), arrays(1)
  optimizer = build(params)
  updates, _ = jax.jit(optimizer.transform.update)(grads, optimizer.transform.init(params), params)
  w, g = np.float64(params["wide.kernel"]), np.float64(grads["wide.kernel"])
  row, column = (g**2).mean(1, keepdims=True), (g**2).mean(0, keepdims=True)
  u = g / np.sqrt(row * column / row.mean())
  u = u / max(1.0, np.sqrt((u**2).mean())) * np.sqrt((w**2).mean())
  np.testing.assert_allclose(updates["wide.kernel"], -0.1 * u, rtol=1e-5, atol=1e-7)


def test_state_grows_with_the_sides_and_not_with_their_product():
  axes = {"blocks.query.kernel": ("layers", "embed", "heads", "head")}
  params = {"blocks.query.kernel": jnp.ones((3, 16, 4, 8))}
  state = build(params, axes).transform.init(params)
  assert optax.tree.get(state, "row")["blocks.query.kernel"].shape == (3, 16)
  assert optax.tree.get(state, "column")["blocks.query.kernel"].shape == (3, 32)
  assert optax.tree.get(state, "full")["blocks.query.kernel"].shape == (1,)
