"""Spans left out of a text at random: a sentinel stands in their place, and the target says what each stood for (Raffel
et al. 2020, section 3.1.4 and figure 2).

    Thank you <X> me to your party <Y> .      ->      <X> for inviting <Y> last week

A row of n tokens loses exactly round(n * ratio) of them, in exactly max(1, round(that / mean)) spans; the lengths of
the spans and of what is kept between them are cut at random, every way alike. A row starts with text that is kept and
ends with a span.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Key, Vocabulary
from llm_jax.objectives import source_and_target
from llm_jax.objectives.source_and_target import SourceTarget, end_id
from llm_jax.objectives.text_rows import real_tokens, row_keys, special_id


@dataclasses.dataclass(frozen=True)
class Counts:
  """How much is left out of rows of n tokens, n = 0 .. L: noise, tokens, and spans, (L + 1,) int32 each."""

  noise: np.ndarray
  spans: np.ndarray

  @staticmethod
  def of(length: int, ratio: float, mean: float) -> "Counts":
    """ratio: share of the tokens; mean: length of a span, inf for a single one. Nothing is left out of one token."""
    size = np.arange(length + 1)
    noise = np.where(size > 1, np.clip(np.round(size * ratio), 1, np.maximum(size - 1, 1)), 0)
    spans = np.minimum(np.maximum(np.round(noise / mean), 1), np.minimum(noise, size - noise))
    return Counts(noise.astype(np.int32), spans.astype(np.int32))

  @property
  def widths(self) -> tuple[int, int]:
    """Tokens of the longest source and of the longest target, with their ends."""
    size = np.arange(len(self.noise))
    return int((size - self.noise + self.spans).max()) + 1, int((self.noise + self.spans).max()) + 1


def moving(size_B: jax.Array, ratio: jax.Array | float, mean: jax.Array | float, most: Counts
           ) -> tuple[jax.Array, jax.Array]:
  """(noise, spans), (B,) int32 each, for a share and a mean length that are known in the step alone, as `Counts.of` has
  them; never more than `most` of a row of full length."""
  noise_B = jnp.clip(jnp.round(size_B * ratio), 1, jnp.minimum(size_B - 1, int(most.noise[-1])))
  fits_B = jnp.minimum(jnp.minimum(noise_B, size_B - noise_B), int(most.spans.max()))
  spans_B = jnp.minimum(jnp.maximum(jnp.round(noise_B / mean), 1), fits_B)
  there_B = size_B > 1
  return jnp.where(there_B, noise_B, 0).astype(jnp.int32), jnp.where(there_B, spans_B, 0).astype(jnp.int32)


def check_sentinels(tokenizer: Vocabulary, count: int) -> None:
  """Raises ConfigError if the tokenizer has fewer sentinels."""
  if len(tokenizer.sentinels) < count:
    raise ConfigError("config.data.tokenizer.sentinels", f"{len(tokenizer.sentinels)} sentinels, and config.objective "
                      f"writes {count} into a row", accepted=f"at least {count}")


def with_tokenizer(objective: Any, tokenizer: Vocabulary, sentinels: int) -> Any:
  """The objective with its tokenizer.

  Raises:
    ConfigError: it lacks an id that is written into every row, or so many sentinels.
  """
  source_and_target.check(tokenizer)
  check_sentinels(tokenizer, sentinels)
  return dataclasses.replace(objective, tokenizer=tokenizer)


def leave_out(tokenizer: Vocabulary, batch: Batch, key: Key | None, noise_B: jax.Array, spans_B: jax.Array,
              widths: tuple[int, int], most: int) -> SourceTarget:
  """The rows with `noise_B` tokens left out in `spans_B` spans. widths: of source and target; most: spans in a row.

  Raises:
    ConfigError: the tokenizer has too few sentinels.
  """
  check_sentinels(tokenizer, most)
  tokens_BL = batch["tokens"]
  ids = (jnp.asarray(tokenizer.sentinels[:max(most, 1)]), end_id(tokenizer), special_id(tokenizer, "pad"))
  def one(key: Key, tokens_L: jax.Array, size: jax.Array, noise: jax.Array, spans: jax.Array) -> SourceTarget:
    is_noise_L, span_L = random_spans(key, size, noise, spans, tokens_L.shape[0])
    return written(tokens_L, is_noise_L, span_L, size, widths, *ids)
  return jax.vmap(one)(row_keys(key, tokens_BL), tokens_BL, real_tokens(batch).sum(1), noise_B, spans_B)


def random_spans(key: Key, size: jax.Array, noise: jax.Array, spans: jax.Array, length: int
                 ) -> tuple[jax.Array, jax.Array]:
  """(L,) bool, in a span, and (L,) int32, the number of that span or of the next one; of the first `size` tokens."""
  noise_key, kept_key = jax.random.split(key)
  cut = lambda key, items: jnp.zeros(length, jnp.int32).at[pieces(key, items, spans, length)].add(
      jnp.arange(length) < items)
  lengths = jnp.stack([cut(kept_key, size - noise), cut(noise_key, noise)], axis=1).reshape(-1)
  number_L = jnp.searchsorted(jnp.cumsum(lengths), jnp.arange(length), side="right")
  inside_L = jnp.arange(length) < size
  return (number_L % 2 == 1) & inside_L & (spans > 0), jnp.where(inside_L & (spans > 0), number_L // 2, 0)


def pieces(key: Key, items: jax.Array, parts: jax.Array, length: int) -> jax.Array:
  """(L,) int32: number of the piece of each item when `items` are cut into `parts`, none empty, every way alike."""
  place = jnp.arange(length)
  may_cut = (place > 0) & (place < items)
  rank = jnp.argsort(jnp.argsort(jnp.where(may_cut, jax.random.uniform(key, (length,)), 2.0)))
  return jnp.cumsum(may_cut & (rank < parts - 1))


def written(tokens_L: jax.Array, is_noise_L: jax.Array, span_L: jax.Array, size: jax.Array,
            widths: tuple[int, int], sentinels: jax.Array, end: int, pad: int) -> SourceTarget:
  """One row as source and target, both with their end."""
  real_L = jnp.arange(tokens_L.shape[0]) < size
  starts_L = is_noise_L & ~jnp.pad(is_noise_L[:-1], (1, 0))
  kept_L = real_L & ~is_noise_L
  spans = starts_L.sum()
  # Every token of the row goes to one place; what has none goes past the end, where it is dropped.
  stays_L = kept_L | starts_L
  source = jnp.full(widths[0], pad, jnp.int32)
  mark_L = sentinels[jnp.minimum(span_L, len(sentinels) - 1)]
  source = source.at[jnp.where(stays_L, jnp.cumsum(stays_L) - 1, widths[0])].set(
      jnp.where(starts_L, mark_L, tokens_L), mode="drop")
  source_size = stays_L.sum()
  target = jnp.full(widths[1], pad, jnp.int32)
  place_L = jnp.cumsum(is_noise_L) + span_L
  target = target.at[jnp.where(is_noise_L, place_L, widths[1])].set(tokens_L, mode="drop")
  target = target.at[jnp.where(starts_L, place_L - 1, widths[1])].set(mark_L, mode="drop")
  target_size = is_noise_L.sum() + spans
  ended = lambda x, n: x.at[n].set(end, mode="drop")
  real = size > 1
  return SourceTarget(ended(source, source_size), source_size + 1, ended(target, target_size),
                      jnp.where(real, target_size + 1, 0))
