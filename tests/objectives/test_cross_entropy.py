"""The chunked loss is the plain loss: values, gradients, second derivatives, on any mesh, in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from llm_jax.core.errors import ConfigError
from llm_jax.objectives.cross_entropy import token_cross_entropy

B, L, D, V = 3, 10, 8, 17


@pytest.fixture
def data():
  keys = jax.random.split(jax.random.key(0), 4)
  return (jax.random.normal(keys[0], (B, L, D)), 2 * jax.random.normal(keys[1], (D, V)),
          jax.random.randint(keys[2], (B, L), 0, V), jax.random.uniform(keys[3], (B, L)))


def reference(hidden, kernel, targets, z_loss=0.0, smoothing=0.0):
  logits = hidden @ kernel
  nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  even = -jax.nn.log_softmax(logits).mean(-1)
  return (1 - smoothing) * nll + smoothing * even + z_loss * jax.nn.logsumexp(logits, -1) ** 2


def ours(hidden, kernel, targets, **knobs):
  return token_cross_entropy(hidden, lambda h: h @ kernel, targets, **knobs)[0]


@pytest.mark.parametrize("chunk", ["auto", 30, 6, 9, 1])
@pytest.mark.parametrize("z_loss, smoothing", [(0.0, 0.0), (1e-2, 0.1)])
def test_equals_the_loss_on_full_logits(data, chunk, z_loss, smoothing):
  hidden, kernel, targets, weights = data
  def total(function, **knobs):
    return jax.value_and_grad(lambda h, k: (function(h, k, targets, **knobs) * weights).sum(), argnums=(0, 1))
  want, want_grads = jax.jit(total(reference, z_loss=z_loss, smoothing=smoothing))(hidden, kernel)
  got, grads = jax.jit(total(ours, z_loss=z_loss, label_smoothing=smoothing, chunk=chunk))(hidden, kernel)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  for a, b in zip(grads, want_grads):
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("chunk", ["auto", 6])
def test_differentiable_twice_and_forward(data, chunk):
  hidden, kernel, targets, weights = data
  direction = jnp.cos(jnp.arange(D * V, dtype=jnp.float32)).reshape(D, V)
  def curvature(function, **knobs):
    loss = lambda k: (function(hidden, k, targets, **knobs) * weights).sum()
    reverse = jax.grad(lambda k: (jax.grad(loss)(k) * direction).sum())(kernel)
    forward = jax.jvp(jax.grad(loss), (kernel,), (direction,))[1]
    return reverse, forward
  for a, b in zip(curvature(ours, chunk=chunk), curvature(reference)):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_low_precision_logits_are_reduced_in_float32(data):
  hidden, kernel, targets, _ = data
  values = token_cross_entropy(hidden.astype(jnp.bfloat16), lambda h: h @ kernel.astype(h.dtype), targets, chunk=6)[0]
  assert values.dtype == jnp.float32
  np.testing.assert_allclose(values, reference(hidden, kernel, targets), rtol=0.05, atol=0.1)


def test_extras(data):
  hidden, kernel, targets, _ = data
  targets = targets.at[0].set((hidden[0] @ kernel).argmax(-1))
  for chunk in ("auto", 6):
    loss, extras = token_cross_entropy(hidden, lambda h: h @ kernel, targets, z_loss=0.1, accuracy=True, chunk=chunk)
    np.testing.assert_allclose(extras["nll"] + extras["z_loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(extras["nll"], reference(hidden, kernel, targets), rtol=1e-5)
    np.testing.assert_array_equal(extras["accuracy"], (hidden @ kernel).argmax(-1) == targets)
  assert token_cross_entropy(hidden, lambda h: h @ kernel, targets)[1] == {}


def test_target_outside_the_vocabulary_is_finite(data):
  hidden, kernel, targets, _ = data
  assert np.isfinite(ours(hidden, kernel, jnp.full_like(targets, -100))).all()


@pytest.mark.parametrize("chunk", [0, -3, "all", True])
def test_a_bad_chunk_names_the_key(data, chunk):
  hidden, kernel, targets, _ = data
  with pytest.raises(ConfigError, match=r"config\.objective\.chunk"):
    ours(hidden, kernel, targets, chunk=chunk)


def test_16_bit_logits_are_kept_and_nothing_wider():
  """Held through the backward pass: the logits in 16 bits and log Z, no float32 array of their size."""
  length, vocab = 128, 2048
  def loss(hidden, kernel):
    return ours(hidden, kernel, jnp.zeros((2, length), jnp.int32), z_loss=1e-2).sum()
  shapes = (jax.ShapeDtypeStruct((2, length, D), jnp.bfloat16), jax.ShapeDtypeStruct((D, vocab), jnp.bfloat16))
  kept = jax.tree.leaves(jax.eval_shape(lambda h, k: jax.vjp(loss, h, k)[1], *shapes))
  wide = [a for a in kept if a.size >= 2 * length * vocab]
  assert [a.dtype for a in wide] == [jnp.bfloat16]
  h, k = (jax.random.normal(jax.random.key(i), s.shape, s.dtype) for i, s in enumerate(shapes))
  whole = lambda h, k: loss(h.astype(jnp.float32), k.astype(jnp.float32))
  for a, b in zip(jax.grad(loss, (0, 1))(h, k), jax.grad(whole, (0, 1))(h, k)):
    np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=0.05, atol=0.05)


def temporary_bytes(length, vocab, chunk):
  shapes = (jax.ShapeDtypeStruct((2, length, D), jnp.float32), jax.ShapeDtypeStruct((D, vocab), jnp.float32))
  targets = jnp.zeros((2, length), jnp.int32)
  loss = lambda h, k: ours(h, k, targets, chunk=chunk).sum()
  return jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*shapes).compile().memory_analysis().temp_size_in_bytes


def test_memory_is_that_of_one_chunk():
  vocab, chunk = 4096, 64
  one_chunk = 4 * chunk * vocab
  short, long = temporary_bytes(128, vocab, chunk), temporary_bytes(1024, vocab, chunk)
  assert long < 6 * one_chunk  # all logits would be 32 of it
  assert long - short < one_chunk
  assert temporary_bytes(1024, vocab, 2048) > 4 * 2 * 1024 * vocab


def test_same_on_a_mesh_that_splits_batch_and_vocabulary():
  devices = np.array(jax.devices()[:4]).reshape(2, 2)
  mesh = jax.sharding.Mesh(devices, ("data", "tensor"))
  keys = jax.random.split(jax.random.key(1), 3)
  hidden, kernel = jax.random.normal(keys[0], (4, L, D)), jax.random.normal(keys[1], (D, 16))
  targets = jax.random.randint(keys[2], (4, L), 0, 16)
  put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
  loss = jax.jit(jax.value_and_grad(lambda h, k, t: ours(h, k, t, chunk=8).mean(), argnums=(0, 1)))
  want = loss(hidden, kernel, targets)
  got = loss(put(hidden, "data"), put(kernel, None, "tensor"), put(targets, "data"))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)
