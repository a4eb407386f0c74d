"""Groups of rows, each times its own matrix: the forms that a TPU gets are the plain one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.layers import doors, grouped

SIZES = (5, 0, 9, 4)  # of 24 rows: the last six belong to no group


def arrays(rows=24, inputs=8, outputs=16):
  draw = np.random.default_rng(0)
  make = lambda *shape: jnp.asarray(draw.normal(size=shape), jnp.float32)
  return make(rows, inputs), make(len(SIZES), inputs, outputs), make(rows, outputs), jnp.asarray(SIZES, jnp.int32)


def each_group_apart(rows, kernel, sizes):
  ends = np.cumsum(sizes)
  parts = [rows[end - size:end] @ matrix for end, size, matrix in zip(ends, sizes, kernel)]
  return jnp.concatenate([*parts, jnp.zeros((rows.shape[0] - ends[-1], kernel.shape[2]))])


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_product_and_gradients_are_those_of_each_group_apart(platform, monkeypatch):
  monkeypatch.setattr(doors, "platform", lambda: platform)
  monkeypatch.setattr(grouped, "kernel_gradient", functools.partial(grouped.kernel_gradient, interpret=True))
  rows, kernel, dy, sizes = arrays()
  got, pull = jax.vjp(lambda r, k: grouped.grouped(r, k, sizes), rows, kernel)
  want, pull_apart = jax.vjp(lambda r, k: each_group_apart(r, k, SIZES), rows, kernel)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  for a, b in zip(pull(dy), pull_apart(dy), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_kernel_of_the_gradient_takes_sizes_that_no_tile_divides():
  rows, kernel, dy, _ = arrays(700, 160, 1100)
  given = rows, jnp.asarray((300, 0, 13, 380), jnp.int32)
  want = jax.vjp(lambda k: grouped.multiply(given, k), kernel)[1](dy)[0]
  got = grouped.kernel_gradient(given, dy, jnp.float32, interpret=True)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)
