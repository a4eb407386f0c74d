"""Groups of rows, each times its own matrix: the forms that a TPU gets are the plain one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.derivatives import plain_layers
from llm_jax.layers import doors, expert_compute, grouped
from llm_jax.meta_learning import mixed_mode
from llm_jax.parallel import mesh, rules, tasks

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


def test_tasks_with_weights_of_their_own_have_their_own_products():
  """And any derivatives, under the map of a meta-learner: forward over reverse within it, reverse around it."""
  rows, kernel, dy, sizes = arrays()
  more = lambda a: jnp.stack([a, 2 * a[::-1]])
  given = more(rows), more(kernel), jnp.stack([sizes, sizes[::-1]])
  def second(product, rows, kernel, sizes):
    loss = lambda kernel: (jnp.tanh(product(rows, kernel, sizes)) * dy).sum()
    return jax.jvp(jax.grad(loss), (kernel,), (jnp.cos(kernel),))
  def total(kernels, run):
    value, tangent = run(given[0], kernels, given[2])
    return (value * tangent).sum(), value
  mapped = tasks.map_tasks(lambda *one: second(grouped.grouped, *one), (0, 0, 0))
  def dense(rows, kernel, sizes):
    group = jnp.searchsorted(jnp.cumsum(sizes), jnp.arange(24), side="right")
    return jnp.einsum("ti,tio->to", rows, jnp.concatenate([kernel, jnp.zeros((1, 8, 16))])[group])
  told = lambda run: jax.grad(lambda kernels: total(kernels, run), has_aux=True)(given[1])
  got, want = jax.jit(lambda: (told(mapped), told(jax.vmap(lambda *one: second(dense, *one)))))()
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)  # third derivatives in float32, of terms that cancel
  first = tasks.map_tasks(grouped.grouped, (None, 0, None))(rows, given[1], sizes)
  np.testing.assert_allclose(first[1], each_group_apart(rows, given[1][1], SIZES), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_tasks_that_a_mesh_splits_have_the_same_experts():
  """Their gradient and what an outer loop asks of it, forward over reverse: there JAX splits no per-device function."""
  draw = np.random.default_rng(0)
  make = lambda *shape: jnp.asarray(draw.normal(size=shape), jnp.float32)
  kernels = expert_compute.Kernels(make(2, 4, 8, 6), make(2, 4, 8, 6), make(2, 4, 6, 8))
  x, choice, share = make(2, 4, 3, 8), jnp.asarray(draw.integers(0, 4, (2, 4, 3, 2))), make(2, 4, 3, 2)
  def task(kernels, x, choice, share):
    loss = lambda kernels, _: jnp.square(expert_compute.dropless(x, choice, share, kernels, jnp.tanh)).mean()
    return mixed_mode.gradient(loss)(kernels, ())
  def twice(mapped, kernels):
    def total(kernels):
      inner = mapped(task, 0)(kernels, x, choice, share)
      return sum(jnp.square(g).sum() for g in inner), inner
    with plain_layers():
      return jax.grad(total, has_aux=True)(kernels)
  def on_mesh(kernels):
    with rules.use(rules.ShardingRules(mesh.make(dict(data=2, fsdp=2, expert=2)))):
      return twice(tasks.map_tasks, kernels)
  one_by_one = lambda function, _: lambda *all: jax.tree.map(lambda *g: jnp.stack(g), *(
      function(*jax.tree.map(lambda a, t=t: a[t], all)) for t in range(2)))
  got, want = jax.jit(on_mesh)(kernels), jax.jit(functools.partial(twice, one_by_one))(kernels)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), got, want)


def test_the_kernel_of_the_gradient_takes_sizes_that_no_tile_divides():
  rows, kernel, dy, _ = arrays(700, 160, 1100)
  given = rows, jnp.asarray((300, 0, 13, 380), jnp.int32)
  want = jax.vjp(lambda k: grouped.multiply(given, k), kernel)[1](dy)[0]
  got = grouped.kernel_gradient(given, dy, jnp.float32, interpret=True)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)
