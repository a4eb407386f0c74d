"""The CPU form of the matrix product is the plain product: outputs, gradients, under every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llm_jax.core.derivatives import plain_layers
from llm_jax.layers import doors, linear_cpu
from llm_jax.layers.embedding import Embedding
from llm_jax.layers.linear import add_bias, linear
from llm_jax.parallel import mesh, rules

SHAPES = [(16, 8, 24), (16, 24, 8), (7, 5, 3), (1, 8, 8), (2048, 3, 5), (3000, 5, 3)]  # tokens, inputs, outputs


def arrays(T, inputs, outputs, dtype):
  keys = jax.random.split(jax.random.key(0), 3)
  x, dy = jax.random.normal(keys[0], (T, inputs)), jax.random.normal(keys[1], (T, outputs)) / T**0.5
  return x.astype(dtype), jax.random.normal(keys[2], (inputs, outputs)), dy.astype(dtype)


def outputs_and_gradients(x, w, dy):
  y, back = jax.vjp(linear, x, w, jnp.sin(jnp.arange(w.shape[1], dtype=jnp.float32)))
  return y, *back(dy)


def close(got, want, tolerance):
  for a, b in zip(got, want, strict=True):
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 5e-2)])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_plain_form(shape, dtype, tolerance):
  values = arrays(*shape, dtype)
  got = jax.jit(outputs_and_gradients)(*values)
  with plain_layers():
    want = jax.jit(outputs_and_gradients)(*values)
  close(got, want, tolerance)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 5e-2)])
@pytest.mark.parametrize("rows", [1, 7, linear_cpu.SEVERAL, linear_cpu.SEVERAL + 1])
def test_of_a_turned_kernel_too(rows, dtype, tolerance):
  """For few rows in float32 the kernel is the first operand of the product, for others the second."""
  (x, w, _), bias = arrays(rows, 6, 8, dtype), jnp.arange(8.0)
  call = jax.jit(lambda x, w, turned: linear(x, w, bias, turned=turned), static_argnums=2)
  close([call(x, w, True)], [call(x, w, False)], tolerance)
  first = "optimization_barrier" in str(jax.make_jaxpr(lambda x: linear(x, w, bias, turned=True))(x))
  assert first == (dtype == "float32" and rows <= linear_cpu.SEVERAL)


def test_the_cpu_form_is_taken_where_it_should_be():
  taken = lambda: "custom_vjp" in str(jax.make_jaxpr(lambda x, w: linear(x, w))(jnp.ones((4, 3)), jnp.ones((3, 2))))
  assert taken() and doors.platform() == "cpu"
  with plain_layers():
    assert not taken()
  with rules.use(rules.ShardingRules(mesh.make({"data": -1}))):
    assert not taken()
  with rules.use(rules.ShardingRules(mesh.make({}, jax.devices()[:1]))):
    assert taken()


def test_what_was_traced_before_is_not_reused_under_plain_layers():
  form = lambda: "custom_vjp" in str(jax.make_jaxpr(jax.checkpoint(linear))(jnp.ones((4, 3)), jnp.ones((3, 2))))
  assert form()
  with plain_layers():
    assert not form()
  assert form()


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 5e-2)])
def test_under_scan_remat_and_vmap(dtype, tolerance):
  x, _, dy = arrays(12, 6, 6, dtype)
  w = jax.random.normal(jax.random.key(3), (2, 4, 6, 6)) / 3  # two networks of four layers
  def loss(w, x):
    layer = jax.checkpoint(lambda x, w: (jnp.tanh(linear(x.reshape(3, 4, 6), w)).reshape(12, 6), None))
    return (jax.lax.scan(layer, x, w)[0] * dy).astype(jnp.float32).sum()
  gradient = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(0, None)))
  got = gradient(w, x)
  with plain_layers():
    want = gradient(w, x)
  close(got, want, tolerance)


def test_gradient_of_a_gradient():
  x, w, _ = arrays(6, 5, 3, "float32")
  def penalty(w, x):
    inner = lambda w, x: (jnp.sin(linear(jnp.sin(linear(x, w)), w.T)) ** 2).sum()
    return sum(jnp.sum(g ** 2) for g in jax.grad(inner, argnums=(0, 1))(w, x))
  got = jax.jit(jax.grad(penalty, argnums=(0, 1)))(w, x)
  with plain_layers():
    want = jax.jit(jax.grad(penalty, argnums=(0, 1)))(w, x)
  close(got, want, 1e-4)


def test_forward_mode_needs_the_plain_form():
  x, w, _ = arrays(6, 5, 3, "float32")
  along = lambda: jax.jvp(lambda w: linear(x, w), (w,), (w,))[1]
  with pytest.raises(TypeError):
    along()
  with plain_layers():
    np.testing.assert_allclose(along(), x @ w, rtol=1e-5)


def test_low_precision_gradient_of_a_transposed_kernel_runs():
  """A tied head transposes its table: XLA must not merge that into a product it cannot run."""
  x, table = jnp.ones((768, 128), jnp.bfloat16), jnp.ones((65, 128))
  grads = jax.jit(jax.grad(lambda t: linear(x, t.T).astype(jnp.float32).sum()))(table)
  np.testing.assert_allclose(grads, 768.0)


def test_weight_gradient_is_not_rounded_to_the_compute_type():
  x, w, dy = arrays(512, 8, 8, "bfloat16")
  exact = jnp.float32(x).T @ jnp.float32(dy)
  got = jax.vjp(lambda w: linear_cpu.affine(x, w, None), w)[1](dy)[0]
  np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-4)


def test_a_bias_whose_gradient_is_a_product():
  y, bias = jax.random.normal(jax.random.key(4), (3, 5, 7)), jnp.arange(7.0)
  got = jax.vjp(add_bias, y, bias)
  want = jax.vjp(lambda y, b: y + b, y, bias)
  np.testing.assert_array_equal(got[0], want[0])
  for a, b in zip(got[1](jnp.cos(y)), want[1](jnp.cos(y)), strict=True):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 8, 40])
def test_scores_by_a_table_do_not_depend_on_how_many_rows_ask(rows, dtype):
  """Few rows take another form, with the same numbers and gradients."""
  D, V = 16, 50
  table = Embedding(nnx.Rngs(0), V, D, dtype=jnp.dtype(dtype))
  x = jax.random.normal(jax.random.key(1), (rows, 1, D), dtype)
  weights = jax.random.normal(jax.random.key(2), (rows, 1, V))
  plain = lambda x, w: x.astype(jnp.float32) @ w.T
  scores = jax.jit(lambda x: table.attend(x))(x)
  assert scores.dtype == x.dtype and scores.shape == (rows, 1, V)
  tolerance = dict(rtol=1e-5, atol=1e-6) if dtype == "float32" else dict(rtol=2e-2, atol=2e-2)
  np.testing.assert_allclose(np.float32(scores), plain(x, table.embedding[...]), **tolerance)
  wanted = jax.jit(jax.grad(lambda x: (plain(x, table.embedding[...]) * weights).sum()))(x)
  found = jax.jit(jax.grad(lambda x: (table.attend(x) * weights).sum()))(x)
  np.testing.assert_allclose(np.float32(found), np.float32(wanted), **tolerance)
