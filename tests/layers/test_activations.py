"""The tanh form of gelu is jax.nn.gelu's, and so are its first two derivatives; every published name is a function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.layers.feed_forward import ACTIVATIONS, activation, gelu_tanh

X = np.concatenate([np.linspace(-12, 12, 4001), [-1e4, -1e-20, 0.0, 1e-20, 1e4]]).astype(np.float32)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_tanh_gelu_and_its_derivatives_are_those_of_jax(order):
  def derivative(f):
    for _ in range(order):
      f = jax.grad(f)
    return jax.jit(jax.vmap(f))(X)
  ours, theirs = derivative(gelu_tanh), derivative(lambda x: jax.nn.gelu(x, approximate=True))
  np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=(1e-6, 1e-5, 1e-4)[order])


def test_its_gradient_is_the_slope_between_two_values():
  for x in (-3.0, -0.75, 0.0, 0.5, 2.0):
    slope = (gelu_tanh(jnp.float32(x + 1e-2)) - gelu_tanh(jnp.float32(x - 1e-2))) / 2e-2
    assert abs(slope - jax.grad(gelu_tanh)(jnp.float32(x))) < 1e-4


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_published_name_keeps_shape_and_dtype_and_has_a_gradient(name):
  x = jnp.linspace(-2.0, 2.0, 8, dtype=jnp.bfloat16)
  y, pull = jax.vjp(activation(name), x)
  assert y.shape == x.shape and y.dtype == x.dtype
  assert np.isfinite(np.asarray(pull(jnp.ones_like(y))[0], np.float32)).all()


def test_an_unknown_name_is_refused_with_the_nearest():
  with pytest.raises(ConfigError, match="gelu_new"):
    activation("gelu_nwe")
