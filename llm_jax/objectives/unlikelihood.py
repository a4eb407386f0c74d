"""Unlikelihood training, token level (Welleck et al. 2020, equations 4 and 5): tokens that the text has used already
are made less likely where another one follows.

    loss_i = -log p(x_i | x_<i) - alpha * sum over c in {x_<i} without x_i of log(1 - p(c | x_<i))

The negatives of a place are the different tokens of its document before the target. Which those are is written into an
array of the shape of one chunk's logits, from the place where each id was last seen, so that a row of L tokens costs no
(L, L) and no (B, L, V).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm_jax.core.output import Output
from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params
from llm_jax.objectives.cross_entropy import in_chunks, means, of_logits, wide
from llm_jax.objectives.knob_ranges import check_not_negative
from llm_jax.objectives.text_rows import documents

NOTHING = -1  # in a context: no token
SURE = 1e-6  # -log p at the least: a negative as sure as this has a finite loss


@dataclasses.dataclass(frozen=True)
class Unlikelihood(Objective):
  """Nats per target token; metrics `nll`, `unlikelihood` (the sum over negatives, before alpha) and `repeats`, the
  share of targets where the most probable token is one of the context."""

  alpha: float
  chunk: int | str
  fields: tuple[str, ...] = ("tokens", "targets", "weights")
  needs: tuple[str, ...] = ("causal",)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    output = apply(params, input_ids=batch["tokens"], **documents(batch), key=key)
    weights_BL = batch["weights"]
    extras = token_unlikelihood(output, batch["targets"], batch["tokens"], batch.get("segment_ids"), chunk=self.chunk)
    values = extras["nll"] + self.alpha * extras["unlikelihood"]
    return Losses(values, weights_BL, means(extras, weights_BL) | output.metrics, output.auxiliary)


def token_unlikelihood(output: Output, targets_BL: jax.Array, context_BL: jax.Array,
                       segment_ids_BL: jax.Array | None = None, *, chunk: int | str = "auto") -> dict[str, jax.Array]:
  """-> {'nll', 'unlikelihood', 'repeats'}, each (B, L), float32.

  Args:
    output: hidden states and how to unembed them.
    targets_BL: the next token of each place.
    context_BL: the token that each place adds to the context of its target and of those after it; NOTHING for none.
    segment_ids_BL: the document of each place; None: a row is one document.
    chunk: tokens of the global batch whose logits are held at once.
  """
  assert output.hidden is not None and output.unembed is not None
  scores, (B, L) = output.unembed, context_BL.shape
  place_BL = jnp.broadcast_to(jnp.arange(L), (B, L))
  start_BL = jnp.zeros((B, L), jnp.int32) if segment_ids_BL is None else starts(segment_ids_BL)
  def losses(hidden: jax.Array, targets: jax.Array, context: jax.Array, place: jax.Array,
             start: jax.Array) -> dict[str, jax.Array]:
    logits = scores(hidden)
    seen = last_seen(context_BL, context, place, logits.shape[-1]) >= start[..., None]
    ids = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    log_of_rest = jax.nn.log1mexp(jnp.maximum(-jax.nn.log_softmax(logits.astype(jnp.float32)), SURE))
    against = jnp.where(seen & (ids != targets[..., None]), -log_of_rest, 0.0).sum(-1)
    repeats = (seen & (ids == logits.argmax(-1)[..., None])).any(-1).astype(jnp.float32)
    return {"nll": of_logits(logits, targets)[0], "unlikelihood": against, "repeats": repeats}
  found: dict[str, jax.Array] = in_chunks(losses, wide(scores), output.hidden, targets_BL, context_BL, place_BL,
                                          start_BL, chunk=chunk)
  return found


def starts(segment_ids_BL: jax.Array) -> jax.Array:
  """(B, L) int32: the place where each place's document begins."""
  new_BL = jnp.pad(segment_ids_BL[:, 1:] != segment_ids_BL[:, :-1], ((0, 0), (1, 0)))
  place_L = jnp.arange(segment_ids_BL.shape[1], dtype=jnp.int32)
  return jax.lax.cummax(jnp.where(new_BL, place_L, 0), axis=1)


def last_seen(row_BL: jax.Array, part_BC: jax.Array, place_BC: jax.Array, vocab: int) -> jax.Array:
  """(B, C, V) int32: where each id was last in the row, up to and with each of these places in turn; -1: nowhere."""
  B, L = row_BL.shape
  earlier_BL = (jnp.arange(L) < place_BC[:, :1]) & (row_BL >= 0)
  before_BV = jnp.full((B, vocab), -1).at[jnp.arange(B)[:, None], jnp.where(earlier_BL, row_BL, vocab)].max(
      jnp.broadcast_to(jnp.arange(L), (B, L)), mode="drop")
  ids = jax.lax.broadcasted_iota(part_BC.dtype, (*part_BC.shape, vocab), 2)
  here_BCV = jnp.where(ids == part_BC[..., None], place_BC[..., None], -1)
  return jnp.maximum(jax.lax.cummax(here_BCV, axis=1), before_BV[:, None])


def build(*, alpha: float = 1.0, chunk: int | str = "auto") -> Unlikelihood:
  """Cross-entropy with token-level unlikelihood of what was said before.

  Args:
    alpha: weight of the unlikelihood.
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.
  """
  check_not_negative("alpha", alpha)
  return Unlikelihood(alpha, chunk)
