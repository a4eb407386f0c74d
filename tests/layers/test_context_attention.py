"""Attention over a sequence that the mesh cuts equals attention over the whole: values and gradients, packed or not."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.derivatives import plain_layers
from llm_jax.core.errors import ConfigError
from llm_jax.layers import attention_ring
from llm_jax.layers.dot_product import Visibility, attend
from llm_jax.parallel import mesh, rules

B = 2


def tensors(L, H, G, K=8, batch=B):
  keys = jax.random.split(jax.random.key(0), 4)
  return tuple(jax.random.normal(key, (batch, L, heads, K)) for key, heads in zip(keys, (H, G, G, H)))


def packed(L):
  ids = jnp.sort(jax.random.randint(jax.random.key(5), (B, L), 0, 4), -1)
  return ids, ids


def of(way="auto", **axes):
  return rules.from_options(mesh.build(**{"data": 1, **axes}, context_attention=way))


def outputs_and_gradients(found, visibility, **options):
  """(output, dq, dk, dv), jitted under these rules; the arrays are cut as a network would have them."""
  def run(q, k, v, do):
    with rules.use(found):
      cut = lambda x, heads: rules.constrain(x, "batch", "length", heads, None)
      y, back = jax.vjp(partial(attend, visibility=visibility, **options), cut(q, "heads"), cut(k, "kv_heads"),
                        cut(v, "kv_heads"))
      return y, *back(do)
  return jax.jit(run)


def same(found, visibility, arrays, tolerance=1e-5, **options):
  got = outputs_and_gradients(found, visibility, **options)(*arrays)
  want = outputs_and_gradients(None, visibility, **options)(*arrays)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


CAUSAL, BOTH = Visibility(), Visibility(causal=False)
CASES = [  # way, mesh, heads, key heads, visibility, packed, soft cap
    ("ring", dict(context=8), 4, 2, CAUSAL, True, None),
    pytest.param("ring", dict(context=4, data=2), 4, 4, Visibility(window=20), True, 5.0, marks=pytest.mark.slow),
    ("ring", dict(context=2, tensor=4), 4, 2, CAUSAL, False, None),
    ("ring", dict(context=8), 2, 1, BOTH, True, None),
    ("ring", dict(context=4, fsdp=2), 2, 1, Visibility(causal=False, window=9), False, None),
    ("gather", dict(context=8), 4, 2, CAUSAL, True, 5.0),
    ("heads", dict(context=4, tensor=2), 8, 2, CAUSAL, True, None),
]


@pytest.mark.parametrize("way, axes, H, G, visibility, pack, cap", CASES)
def test_a_cut_sequence_gives_what_the_whole_gives(way, axes, H, G, visibility, pack, cap, monkeypatch):
  monkeypatch.setattr(attention_ring, "MOST_KEYS", 3)  # chunks of 4 to 16 in several blocks
  visibility = dataclasses.replace(visibility, segments=packed(64)) if pack else visibility
  same(of(way, **axes), visibility, tensors(64, H, G), scale=0.3, soft_cap=cap)


def test_every_chunk_finds_its_way_home():
  """Zigzag and back over 6 devices: the identity; and in between device i holds chunks i and 2 n - 1 - i."""
  from llm_jax.parallel import ring
  from llm_jax.parallel.shard import per_shard
  found = rules.ShardingRules(mesh.make(dict(context=6), jax.devices()[:6]))
  x = jnp.arange(24).reshape(1, 24)
  with rules.use(found):
    row = ("batch", "length")
    there = lambda x: ring.to_zigzag(x, "context", 6)
    zigzag = jax.jit(per_shard(lambda x: there(x).reshape(1, 4), [row], row))(x)
    back = jax.jit(per_shard(lambda x: ring.from_zigzag(there(x), "context", 6), [row], row))(x)
  chunks = np.arange(24).reshape(12, 2)
  np.testing.assert_array_equal(zigzag[0].reshape(6, 2, 2), np.stack([chunks[:6], chunks[:5:-1]], 1))
  np.testing.assert_array_equal(back, x)


def test_what_the_ring_cannot_do_is_gathered_or_refused():
  q, k, v, _ = tensors(32, 4, 4)
  bias = jax.random.normal(jax.random.key(3), (1, 4, 32, 32))
  run = lambda found: outputs_and_gradients(found, BOTH, bias_BHLM=bias)
  want = run(None)(q, k, v, q)
  for a, b in zip(run(of(context=8))(q, k, v, q), want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
  with pytest.raises(ConfigError, match="a bias on the scores"):
    run(of("ring", context=8))(q, k, v, q)
  with pytest.raises(ConfigError, match="twice the parts"):
    outputs_and_gradients(of("ring", context=8), CAUSAL)(*tensors(40, 4, 4))
  with pytest.raises(ConfigError, match="4 heads into 8 parts"):
    outputs_and_gradients(of("heads", context=8), CAUSAL)(q, k, v, q)
  with pytest.raises(ConfigError, match="needs whole sequences"):
    outputs_and_gradients(of(context=8), CAUSAL, implementation="splash")(q, k, v, q)


def test_second_derivatives_of_a_cut_sequence():
  q, k, v, _ = tensors(16, 2, 2)
  def square(found):
    def loss(q):
      with rules.use(found), plain_layers():
        return jnp.square(attend(q, k, v, CAUSAL)).sum()
    return jax.jit(jax.grad(lambda q: jnp.square(jax.grad(loss)(q)).sum()))(q)
  np.testing.assert_allclose(square(of(context=8)), square(None), rtol=1e-4, atol=1e-5)


def temporaries(length, parts):
  found = rules.ShardingRules(mesh.make(dict(context=parts), jax.devices()[:parts]), context_attention="ring")
  place = found.sharding(("batch", "length", "heads", None))
  x = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32, sharding=place)
  return outputs_and_gradients(found, CAUSAL).lower(x, x, x, x).compile().memory_analysis()


def test_memory_of_a_device_falls_as_one_over_n():
  """Temporaries at least so: a device's blocks of scores fall as 1 / n^2. Arguments and results exactly."""
  two, eight = temporaries(4096, 2), temporaries(4096, 8)
  assert eight.temp_size_in_bytes <= two.temp_size_in_bytes / 4
  assert eight.argument_size_in_bytes == two.argument_size_in_bytes / 4
  assert eight.output_size_in_bytes <= two.output_size_in_bytes / 4 * 1.01


@pytest.mark.slow
def test_a_long_sequence_over_eight_devices():
  """32,768 tokens, packed: the ring equals attention over the whole sequence, in rows that fit."""
  ids = jnp.repeat(jnp.arange(5), jnp.array([3000, 20000, 1, 7000, 2767]))[None]
  same(of("ring", context=8), Visibility(segments=(ids, ids)), tensors(32_768, 1, 1, batch=1))
