"""What every decoder does with its inputs before the first layer: positions, visible keys, the cache's slots."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.layers import cache as kv


@dataclasses.dataclass(frozen=True)
class DecoderInputs:
  """positions (B, L); segments: pair of ids for `Visibility` or None; offset: first token's slot; cache, marked;
  prefix: (B,) or None, how many first tokens see each other."""

  positions: jax.Array
  segments: tuple[jax.Array, jax.Array] | None
  offset: jax.Array | int
  cache: kv.Cache | None
  prefix: jax.Array | None = None


def prepare(input_ids: jax.Array, attention_mask: jax.Array | None, position_ids: jax.Array | None,
            segment_ids: jax.Array | None, cache: kv.Cache | None, *, prefix_length: jax.Array | None = None,
            padding_reads: bool = False) -> DecoderInputs:
  """Reads the call's arguments, all (B, L) of this call's tokens.

  attention_mask: 1 for real tokens, 0 for padding on either side. segment_ids: documents of a packed row, 0 is padding.
  position_ids default: 0 .. L-1 without a cache, as Hugging Face has it; with one, the count of real tokens before.
  prefix_length: (B,) so many first tokens see each other, without a cache (prefix language modelling).
  padding_reads: padding on the right sees the real tokens before it, as Hugging Face has it, instead of only itself;
  it matters to a head whose loss counts padded positions (spans).
  """
  B, L = input_ids.shape
  if cache is None:
    ids = segment_ids
    if attention_mask is not None:
      ids = attention_mask.astype(jnp.int32) * (1 if ids is None else ids)
    query_ids: Any = jax.lax.cummax(ids, axis=1) if padding_reads and ids is not None else ids
    positions = default_positions(input_ids, None, None) if position_ids is None else position_ids
    return DecoderInputs(positions, None if ids is None else (query_ids, ids), 0, None, prefix_length)
  valid_BL = jnp.ones((B, L), jnp.int32) if attention_mask is None else attention_mask.astype(jnp.int32)
  if position_ids is None:
    position_ids = default_positions(input_ids, valid_BL, cache)
  cache = kv.mark(cache, valid_BL)
  return DecoderInputs(position_ids, (valid_BL, cache["valid"]), cache["index"], cache)


def default_positions(input_ids: jax.Array, attention_mask: jax.Array | None, cache: kv.Cache | None) -> jax.Array:
  """(B, L) positions of tokens for which a call gives none; see `prepare`."""
  B, L = input_ids.shape
  if cache is None:
    return jnp.broadcast_to(jnp.arange(L), (B, L))
  valid_BL = jnp.ones((B, L), jnp.int32) if attention_mask is None else attention_mask.astype(jnp.int32)
  return jnp.maximum(cache["valid"].sum(-1, keepdims=True) + jnp.cumsum(valid_BL, -1) - 1, 0)
