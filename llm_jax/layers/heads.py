"""Heads of decoders: scores of next tokens, or of labels of a sequence, a token, a span, one choice among several."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.output import Output
from llm_jax.layers.linear import Linear

Head = Literal["lm", "sequence", "token", "question", "double", "none"]

# What a causal model with each head can be trained for, in the words of core/offers.py.
OFFERS: dict[str, tuple[str, ...]] = {"lm": ("causal", "prefix"), "sequence": ("classes",), "token": ("token_classes",),
                                      "question": ("spans",), "double": (), "none": ()}


class LastTokenHead(nnx.Module):
  """Scores (B, C) of the rightmost token that is not padding (Hugging Face's decoder sequence classification). Padding
  is the token `pad_token`, or without one what the call says is none."""

  def __init__(self, rngs: nnx.Rngs, width: int, labels: int, pad_token: int | None):
    self.pad_token = pad_token
    self.score = Linear(rngs, {"embed": width}, {"labels": labels}, bias=False)

  def __call__(self, hidden_BLD: jax.Array, input_ids_BL: jax.Array, real_BL: jax.Array | None = None) -> jax.Array:
    slots, told = jnp.arange(input_ids_BL.shape[1]), jnp.ones_like(input_ids_BL) if real_BL is None else real_BL
    kept_BL = told > 0 if self.pad_token is None else input_ids_BL != self.pad_token
    last_B = jnp.where(kept_BL, slots, 0).max(-1)
    return self.score(jnp.take_along_axis(hidden_BLD, last_B[:, None, None], axis=1)[:, 0])


class ChoiceHead(nnx.Module):
  """One score per choice, read at `token_ids`: hidden (B, C, L, D), token_ids (B, C) -> (B, C) (GPT-1)."""

  def __init__(self, rngs: nnx.Rngs, width: int):
    self.summary = Linear(rngs, {"embed": width}, {"labels": 1})

  def __call__(self, hidden_BCLD: jax.Array, token_ids_BC: jax.Array) -> jax.Array:
    read = jnp.take_along_axis(hidden_BCLD, token_ids_BC[..., None, None], axis=-2)[..., 0, :]
    return self.summary(read)[..., 0]


def lm_head(rngs: nnx.Rngs, head: Head, width: int, vocab_size: int, tied: bool) -> Linear | None:
  """The output matrix, where the head scores tokens and does not share the embedding's."""
  if tied or head not in ("lm", "double"):
    return None
  return Linear(rngs, {"embed": width}, {"vocab": vocab_size}, bias=False)


def classifier(rngs: nnx.Rngs, head: Head, width: int, labels: int, pad_token: int | None) -> Any:
  """The module of a head for labels, or None."""
  if head == "sequence":
    return LastTokenHead(rngs, width, labels, pad_token)
  if head in ("token", "question"):
    return Linear(rngs, {"embed": width}, {"labels": 2 if head == "question" else labels})
  return ChoiceHead(rngs, width) if head == "double" else None


def output(head: Head, classifier: Any, hidden_BLD: jax.Array, input_ids_BL: jax.Array,
           unembed: Callable[[jax.Array], jax.Array], *, segments: Any = None, **common: Any) -> Output:
  """The Output of a head over the final hidden states; a question's scores are 'start_logits' and 'end_logits'.
  segments: (of queries, of keys) of layers/decoding.py, 0 for padding; None: all tokens are real."""
  if head == "sequence":
    real_BL = None if segments is None else segments[1]
    return Output(hidden_BLD, scores=classifier(hidden_BLD, input_ids_BL, real_BL), **common)
  if head == "token":
    return Output(hidden_BLD, scores=classifier(hidden_BLD), **common)
  if head == "question":
    start_BL, end_BL = jnp.moveaxis(classifier(hidden_BLD), -1, 0)
    extra = common.pop("extra", {}) | {"start_logits": start_BL, "end_logits": end_BL}
    return Output(hidden_BLD, extra=extra, **common)
  return Output(hidden_BLD, unembed=None if head == "none" else unembed, **common)
