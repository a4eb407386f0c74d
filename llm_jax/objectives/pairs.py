"""Pairs of texts from single rows: [CLS] A [SEP] B [SEP], made in the step (Devlin et al. 2019, section 3.1).

A row is cut in its middle. A is what stands before the cut, B what follows it, each as far as its document goes; the
pair has no weight where the cut falls between two documents. A stranger's B is that of the next row of the batch.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Key, Losses, Mean, Vocabulary
from llm_jax.objectives.text_rows import row_keys, special_id

ADDED = 3  # [CLS] and two [SEP]


class Piece(NamedTuple):
  """A part of each row. rows: {field: (B, L)}; start, size: (B,) int32."""

  rows: Batch
  start: jax.Array
  size: jax.Array


@dataclasses.dataclass(frozen=True)
class Pairs:
  """rows: the batch of pairs: tokens, token_type_ids, segment_ids (1, and 0 at padding), and 'phrase_ids' if given.

  labels: (B,) 0 where B follows A, 1 where it does not, as Hugging Face has it; weights: (B,) 1 where both are there.
  """

  rows: Batch
  labels: jax.Array
  weights: jax.Array

  @property
  def inputs(self) -> dict[str, jax.Array]:
    """What `apply` is given beside the tokens."""
    return dict(token_type_ids=self.rows["token_type_ids"], attention_mask=self.rows["segment_ids"])


def check(tokenizer: Vocabulary) -> None:
  """Raises ConfigError if the tokenizer lacks an id that a pair needs."""
  for role in ("cls", "sep", "pad"):
    special_id(tokenizer, role)


def with_strangers(tokenizer: Vocabulary, batch: Batch, key: Key | None) -> Pairs:
  """Pairs of which half, by chance, have the B of the batch's next row: label 1.

  Raises:
    ConfigError: a batch of one row.
  """
  if batch["tokens"].shape[0] < 2:
    raise ConfigError("config.train.batch_size", "one row in a (micro-)batch has no other row to be paired with",
                      accepted="at least 2 for each of config.train.accumulate micro-batches")
  first, second, joined_B = halves(batch)
  stranger_B = coin(batch, key)
  swap = lambda x: jnp.where(stranger_B.reshape(-1, *[1] * (x.ndim - 1)), jnp.roll(x, -1, axis=0), x)
  other = jax.tree.map(swap, second)
  return compose(tokenizer, first, other, stranger_B, joined_B & (other.size > 0))


def with_order(tokenizer: Vocabulary, batch: Batch, key: Key | None) -> Pairs:
  """Pairs of which half, by chance, stand in the wrong order, B before A: label 1 (Lan et al. 2020, section 3.1)."""
  first, second, joined_B = halves(batch)
  swapped_B = coin(batch, key)
  pick = lambda a, b: jnp.where(swapped_B.reshape(-1, *[1] * (a.ndim - 1)), b, a)
  return compose(tokenizer, jax.tree.map(pick, first, second), jax.tree.map(pick, second, first), swapped_B, joined_B)


def coin(batch: Batch, key: Key | None) -> jax.Array:
  """(B,) bool, each with probability 1 / 2."""
  return jax.vmap(jax.random.bernoulli)(row_keys(key, batch["tokens"]))


def halves(batch: Batch) -> tuple[Piece, Piece, jax.Array]:
  """What stands before and behind the middle of each row, and (B,) whether it is one document's."""
  B, L = batch["tokens"].shape
  cut, end = (L - ADDED) // 2, L - ADDED
  segments_BL = batch["segment_ids"] if "segment_ids" in batch else (batch["weights"] > 0).astype(jnp.int32)
  before_B, behind_B = segments_BL[:, cut - 1], segments_BL[:, cut]
  sizes = lambda part_BL, own_B: ((part_BL == own_B[:, None]) & (part_BL > 0)).sum(1)
  rows: Batch = {name: batch[name] for name in ("tokens", "phrase_ids") if name in batch}
  size_B = sizes(segments_BL[:, :cut], before_B)
  first = Piece(rows, cut - size_B, size_B)
  second = Piece(rows, jnp.full((B,), cut), sizes(segments_BL[:, cut:end], behind_B))
  return first, second, (before_B == behind_B) & (behind_B > 0)


def compose(tokenizer: Vocabulary, first: Piece, second: Piece, labels_B: jax.Array, weights_B: jax.Array) -> Pairs:
  """[CLS] first [SEP] second [SEP], then padding, in rows of the same length."""
  L = first.rows["tokens"].shape[1]
  place_L, a_B1, b_B1 = jnp.arange(L), first.size[:, None], second.size[:, None]
  in_first = (place_L >= 1) & (place_L <= a_B1)
  in_second = (place_L >= a_B1 + 2) & (place_L < a_B1 + 2 + b_B1)
  def taken(name: str, otherwise: jax.Array | int) -> jax.Array:
    a_BL = _shifted(first.rows[name], first.start[:, None] + place_L - 1)
    b_BL = _shifted(second.rows[name], second.start[:, None] + place_L - a_B1 - 2)
    return jnp.where(in_first, a_BL, jnp.where(in_second, b_BL, otherwise))
  cls, sep, pad = (special_id(tokenizer, role) for role in ("cls", "sep", "pad"))
  real_BL = place_L < a_B1 + b_B1 + ADDED
  around_BL = jnp.where(place_L == 0, cls, jnp.where(real_BL, sep, pad))
  rows = {name: taken(name, around_BL if name == "tokens" else 0) for name in first.rows}
  rows["token_type_ids"] = (real_BL & (place_L > a_B1 + 1)).astype(jnp.int32)
  rows["segment_ids"] = real_BL.astype(jnp.int32)
  return Pairs(rows, labels_B.astype(jnp.int32), weights_B.astype(jnp.float32))


def _shifted(x_BL: jax.Array, place_BL: jax.Array) -> jax.Array:
  return jnp.take_along_axis(x_BL, jnp.clip(place_BL, 0, x_BL.shape[1] - 1), axis=1)


def pair_losses(logits_B2: jax.Array, pairs: Pairs) -> Losses:
  """Cross-entropy in nats of each pair's label, (B,), with accuracy."""
  log_p = jax.nn.log_softmax(logits_B2.astype(jnp.float32))
  values: jax.Array = -jnp.where(pairs.labels == 1, log_p[:, 1], log_p[:, 0])
  right = jax.lax.stop_gradient((logits_B2.argmax(-1) == pairs.labels) * pairs.weights).sum()
  return Losses(values, pairs.weights, {"accuracy": Mean(right, pairs.weights.sum())})
