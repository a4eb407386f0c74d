"""Norms are their published formulas, and the form with a written-out gradient is the plain one: values, gradients,
every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llm_jax.core.derivatives import plain_layers
from llm_jax.layers.norm import LayerNorm, RMSNorm
from llm_jax.layers.norm_gradient import STATISTICS, norm
from llm_jax.layers.recompute import checkpoint

KINDS = {
    "layer": lambda: LayerNorm(nnx.Rngs(0), 6),
    "layer without bias": lambda: LayerNorm(nnx.Rngs(0), 6, bias=False),
    "rms": lambda: RMSNorm(nnx.Rngs(0), 6),
    "rms of Gemma": lambda: RMSNorm(nnx.Rngs(0), 6, offset=True),
}


def made(kind):
  """(pure function of (leaves, x), leaves that are not at their start)."""
  graph, state = nnx.split(KINDS[kind]())
  leaves = jax.tree.map(lambda a: a + 0.3 * jnp.cos(jnp.arange(a.size, dtype=jnp.float32)).reshape(a.shape), state)
  return lambda leaves, x: nnx.merge(graph, leaves)(x), leaves


def value_and_gradients(function, leaves, x):
  y, back = jax.vjp(function, leaves, x)
  return jax.tree.leaves((y, back(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype))))


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_plain_form(kind, dtype, tolerance):
  function, leaves = made(kind)
  x = (3 * jax.random.normal(jax.random.key(1), (2, 5, 6)) + 1).astype(dtype)
  got = jax.jit(lambda leaves, x: value_and_gradients(function, leaves, x))(leaves, x)
  with plain_layers():
    want = jax.jit(lambda leaves, x: value_and_gradients(function, leaves, x))(leaves, x)
  for a, b in zip(got, want, strict=True):
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=tolerance, atol=tolerance)


def test_layer_norm_is_its_formula():
  function, leaves = made("layer")
  x = np.asarray(jax.random.normal(jax.random.key(2), (4, 6)), np.float64)
  scale, bias = (np.asarray(a) for a in (leaves["scale"][...], leaves["bias"][...]))
  want = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + bias
  np.testing.assert_allclose(function(leaves, jnp.float32(x)), want, rtol=1e-5, atol=1e-6)


def test_higher_derivatives_take_the_plain_form():
  function, leaves = made("layer")
  x = jax.random.normal(jax.random.key(3), (3, 6))
  with plain_layers():
    hessian = jax.jit(jax.hessian(lambda x: jnp.sum(jnp.sin(function(leaves, x)))))(x)
  assert np.isfinite(hessian).all() and np.abs(hessian).max() > 0


def test_the_variance_of_one_pass_is_that_of_two():
  x = 3 * jax.random.normal(jax.random.key(4), (4, 64)) + 1
  scale, bias = jnp.linspace(0.5, 1.5, 64), jnp.linspace(-1, 1, 64)
  form = jax.jit(lambda one_pass: value_and_gradients(lambda p, x: norm(x, *p, 1e-5, True, one_pass), (scale, bias), x),
                 static_argnums=0)
  for a, b in zip(form(True), form(False), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
  assert np.isfinite(norm(jnp.full((1, 64), 1e4), scale, bias, 1e-5, True, True)).all()  # rounding gives no root of < 0


def test_what_is_computed_again_does_not_measure_again():
  """Two numbers per token are kept by name: the backward pass of a checkpoint around a norm has no sum of squares."""
  function, leaves = made("layer")
  x = jnp.ones((3, 6))
  sums = lambda f: str(jax.make_jaxpr(jax.grad(lambda leaves, x: f(leaves, x).sum(), (0, 1)))(leaves, x)).count("rsqrt")
  assert sums(checkpoint(function, (STATISTICS,))) < sums(checkpoint(function))
