"""A source text and the target that follows from it, and the ways to learn the one from the other: an encoder and a
decoder, or a single row of source and target with a loss on the target, read by a causal model that sees the source
from both sides ('prefix') or not ('causal')."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from llm_jax.core.types import Key, Losses, Params, Vocabulary
from llm_jax.objectives.cross_entropy import means, token_cross_entropy
from llm_jax.objectives.text_rows import special_id

Form = Literal["encoder_decoder", "prefix", "causal"]


class SourceTarget(NamedTuple):
  """source (B, E) and target (B, T) int32, the last token of each its end; source_size, target_size (B,) int32."""

  source: jax.Array
  source_size: jax.Array
  target: jax.Array
  target_size: jax.Array


def end_id(tokenizer: Vocabulary) -> int:
  """The id behind a source and a target: eos, else eod.

  Raises:
    ConfigError: the tokenizer has neither.
  """
  return tokenizer.special["eos"] if "eos" in tokenizer.special else special_id(tokenizer, "eod")


def check(tokenizer: Vocabulary) -> None:
  """Raises ConfigError if the tokenizer lacks an id that is written here."""
  end_id(tokenizer)
  special_id(tokenizer, "pad")


def losses(form: Form, apply: Callable, params: Params, made: SourceTarget, tokenizer: Vocabulary, key: Key | None,
           **settings: Any) -> Losses:
  """Cross-entropy in nats per token of the target, (B, T), its end included; settings: of `token_cross_entropy`."""
  pad = special_id(tokenizer, "pad")
  inside = lambda x, size: jnp.arange(x.shape[1]) < size[:, None]
  weights = inside(made.target, made.target_size).astype(jnp.float32)
  if form == "encoder_decoder":
    shifted_BT = jnp.pad(made.target[:, :-1], ((0, 0), (1, 0)), constant_values=pad)  # T5 starts from its padding
    read_BE = inside(made.source, made.source_size).astype(jnp.int32)
    output = apply(params, input_ids=made.source, attention_mask=read_BE, decoder_input_ids=shifted_BT, key=key)
    hidden = output.hidden
  else:
    row_BL = joined(made, pad)[:, :-1]
    inputs = inside(row_BL, made.source_size + made.target_size).astype(jnp.int32)
    both = dict(prefix_length=made.source_size) if form == "prefix" else {}
    output = apply(params, input_ids=row_BL, segment_ids=inputs, **both, key=key)
    place_BT = jnp.minimum(made.source_size[:, None] - 1 + jnp.arange(weights.shape[1]), row_BL.shape[1] - 1)
    hidden = jnp.take_along_axis(output.hidden, place_BT[..., None], axis=1)
  values, extras = token_cross_entropy(hidden, output.unembed, made.target, accuracy=True, **settings)
  return Losses(values, weights, means(extras, weights) | output.metrics, output.auxiliary)


def joined(made: SourceTarget, pad: int) -> jax.Array:
  """(B, E + T): the target right behind the source, then padding."""
  E, T = made.source.shape[1], made.target.shape[1]
  place_L, end_B1 = jnp.arange(E + T), made.source_size[:, None]
  take = lambda x, place: jnp.take_along_axis(x, jnp.clip(place, 0, x.shape[1] - 1), axis=1)
  source_BL = take(made.source, jnp.broadcast_to(place_L, (made.source.shape[0], E + T)))
  row_BL = jnp.where(place_L < end_B1, source_BL, take(made.target, place_L - end_B1))
  return jnp.where(place_L < end_B1 + made.target_size[:, None], row_BL, pad)
