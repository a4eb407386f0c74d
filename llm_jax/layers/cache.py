"""The key-value cache of cached decoding: arguments and results of a call, never module state.

One pytree holds all layers: `key` and `value` (N, B, M, G, K), `valid` (B, M) says which slots hold a token, `index` is
the slot that the next token gets (the same for every row: shorter prompts are padded on the left). Where layers are
unrolled (stack.py, `unrolled`), `key` and `value` are tuples of N arrays (B, M, G, K): a step then writes its slot in
place and reads each layer without a copy. A decoder that reads an encoder also has `memory_key`, `memory_value`
and `memory_valid`, made once from the encoder's states.
"""

from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.layers.stack import is_unrolled
from llm_jax.parallel.rules import constrain

Cache = dict[str, Any]


def init_cache(layers: int, batch: int, length: int, heads: int, width: int, dtype: jnp.dtype = jnp.float32) -> Cache:
  """An empty cache for `length` slots."""
  shape = (batch, length, heads, width)
  def empty() -> Any:
    if is_unrolled():
      return tuple(_pin(jnp.zeros(shape, dtype)) for _ in range(layers))
    return _pin(jnp.zeros((layers, *shape), dtype))
  return {"key": empty(), "value": empty(), "valid": constrain(jnp.zeros((batch, length), jnp.int32), "batch", None),
          "index": jnp.zeros((), jnp.int32)}


def with_memory(cache: Cache, k_NBMGK: jax.Array, v_NBMGK: jax.Array, valid_BM: jax.Array) -> Cache:
  """The cache of a decoder that reads an encoder: each layer's keys and values of the encoder's states, and which of
  them are tokens."""
  held = lambda a: tuple(_pin(x) for x in a) if is_unrolled() else _pin(a)
  return cache | {"memory_key": held(k_NBMGK), "memory_value": held(v_NBMGK),
                  "memory_valid": constrain(valid_BM.astype(jnp.int32), "batch", None)}


def without_memory(cache: Cache) -> Cache:
  """The part of the cache that a layer changes."""
  return {name: a for name, a in cache.items() if not name.startswith("memory_")}


def memory(cache: Cache, layer: jax.Array | int) -> tuple[jax.Array, jax.Array]:
  """A layer's keys and values (B, M, G, K) of the encoder's states."""
  k, v = cache["memory_key"], cache["memory_value"]
  if isinstance(k, tuple):
    return k[layer], v[layer]
  at = lambda a: jax.lax.dynamic_index_in_dim(a, layer, keepdims=False)
  return at(k), at(v)


def mark(cache: Cache, valid_BL: jax.Array) -> Cache:
  """The cache with the slots of this call's L tokens marked: 1 where a token is real, 0 for left padding."""
  valid = jax.lax.dynamic_update_slice(cache["valid"], valid_BL.astype(jnp.int32), (0, cache["index"]))
  return cache | {"valid": constrain(valid, "batch", None)}


def write(cache: Cache, layer: jax.Array | int, k_BLGK: jax.Array,
          v_BLGK: jax.Array) -> tuple[jax.Array, jax.Array, Cache]:
  """Puts this call's keys and values into a layer's slots -> (all keys (B, M, G, K), all values, cache)."""
  key, all_k = _write(cache["key"], layer, cache["index"], k_BLGK)
  value, all_v = _write(cache["value"], layer, cache["index"], v_BLGK)
  return all_k.astype(k_BLGK.dtype), all_v.astype(v_BLGK.dtype), cache | {"key": key, "value": value}


def _write(whole: Any, layer: jax.Array | int, index: jax.Array, part_BLGK: jax.Array) -> tuple[Any, jax.Array]:
  """-> (whole with the part in its slots, that layer)."""
  if isinstance(whole, tuple):
    one = _pin(jax.lax.dynamic_update_slice(whole[layer], part_BLGK.astype(whole[layer].dtype), (0, index, 0, 0)))
    return whole[:layer] + (one,) + whole[layer + 1:], one
  whole = jax.lax.dynamic_update_slice(whole, part_BLGK[None].astype(whole.dtype), (layer, 0, index, 0, 0))
  return _pin(whole), jax.lax.dynamic_index_in_dim(whole, layer, keepdims=False)


def _pin(x: jax.Array) -> jax.Array:
  axes = ("batch", None, "kv_heads", "head")
  return constrain(x, *(("layers", *axes) if x.ndim == 5 else axes))


def advance(cache: Cache, count: int) -> Cache:
  """The cache after a call of `count` tokens."""
  return cache | {"index": cache["index"] + count}
