"""The key-value cache of cached decoding: arguments and results of a call, never module state.

One pytree holds all layers: `key` and `value` (N, B, M, G, K), `valid` (B, M) says which slots hold a token, `index` is
the slot that the next token gets (the same for every row: shorter prompts are padded on the left).
"""

from typing import Any

import jax
import jax.numpy as jnp

Cache = dict[str, Any]


def init_cache(layers: int, batch: int, length: int, heads: int, width: int, dtype: jnp.dtype = jnp.float32) -> Cache:
  """An empty cache for `length` slots."""
  shape = (layers, batch, length, heads, width)
  return {"key": jnp.zeros(shape, dtype), "value": jnp.zeros(shape, dtype),
          "valid": jnp.zeros((batch, length), jnp.int32), "index": jnp.zeros((), jnp.int32)}


def mark(cache: Cache, valid_BL: jax.Array) -> Cache:
  """The cache with the slots of this call's L tokens marked: 1 where a token is real, 0 for left padding."""
  valid = jax.lax.dynamic_update_slice(cache["valid"], valid_BL.astype(jnp.int32), (0, cache["index"]))
  return cache | {"valid": valid}


def write(cache: Cache, layer: jax.Array | int, k_BLGK: jax.Array, v_BLGK: jax.Array) -> tuple[jax.Array, jax.Array, Cache]:
  """Puts this call's keys and values into a layer's slots -> (all keys (B, M, G, K), all values, cache)."""
  start = (layer, 0, cache["index"], 0, 0)
  put = lambda whole, part: jax.lax.dynamic_update_slice(whole, part[None].astype(whole.dtype), start)
  cache = cache | {"key": put(cache["key"], k_BLGK), "value": put(cache["value"], v_BLGK)}
  pick = lambda whole: jax.lax.dynamic_index_in_dim(whole, layer, keepdims=False).astype(k_BLGK.dtype)
  return pick(cache["key"]), pick(cache["value"]), cache


def advance(cache: Cache, count: int) -> Cache:
  """The cache after a call of `count` tokens."""
  return cache | {"index": cache["index"] + count}
