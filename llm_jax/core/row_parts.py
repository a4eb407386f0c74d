"""Rows of prompt and completion: what each token is, which the data say, and which objectives score alone."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

PADDING, PROMPT, COMPLETION = 0, 1, 2


def ends_of(special: Mapping[str, int]) -> tuple[int, ...]:
  """The ids that end a completion. special: {role: id} of a tokenizer."""
  return tuple(special[role] for role in ("eod", "eos") if role in special)


def joined(prompt_NP: jax.Array, length_N: jax.Array, completion_NT: jax.Array,
           mask_NT: jax.Array) -> tuple[jax.Array, jax.Array]:
  """-> (tokens, parts), (N, P + T) int32 each: every prompt and its completion without a gap, padding at the end.

  length: tokens of each prompt; mask: 1 where there is a token of the completion.
  """
  P, T = prompt_NP.shape[1], completion_NT.shape[1]
  place_L, end_N1 = jnp.arange(P + T), length_N[:, None]
  behind_NL = jnp.where(place_L < end_N1 + T, place_L + P - end_N1, place_L - T)
  taken_NL = jnp.where(place_L < end_N1, place_L, behind_NL)
  tokens = jnp.concatenate([prompt_NP, completion_NT], 1)
  prompt_parts, parts = jnp.where(place_L[:P] < end_N1, PROMPT, PADDING), jnp.where(mask_NT, COMPLETION, PADDING)
  parts = jnp.concatenate([prompt_parts, parts], 1).astype(jnp.int32)
  return jnp.take_along_axis(tokens, taken_NL, 1), jnp.take_along_axis(parts, taken_NL, 1)
