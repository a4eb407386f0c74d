"""Which tokens of a row are masked, and what stands in their place (Devlin et al. 2019, section 3.1).

Tokens are chosen in units: single tokens, whole words, n-grams of words (ALBERT: p(n) ~ 1 / n), spans of words
(SpanBERT: geometric lengths), or the phrases and entities that the data mark (ERNIE). A row is cut into units side by
side, which are taken in a random order up to the number of tokens to mask, as the published codes take them: a word,
n-gram or phrase that no longer fits is left out and the next ones are tried; the last span is cut to what is left.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Key, Knobs, Vocabulary
from llm_jax.objectives.text_rows import is_text, ordinary_ids, row_keys, special_id, word_starts

Unit = Literal["token", "word", "ngram", "span", "phrase"]
LONGEST = {"ngram": 3, "span": 10}  # Lan et al. 2020, section 3.1; Joshi et al. 2020, section 3.1
GEOMETRIC = 0.2  # of SpanBERT's lengths


@dataclasses.dataclass(frozen=True)
class Masking:
  """The knobs of `masked_lm.build` that say what is masked; `ratio` yields to a curriculum's knob 'mask_ratio'."""

  ratio: float = 0.15
  unit: Unit = "token"
  longest: int | None = None
  mask_share: float = 0.8
  random_share: float = 0.1
  bound: float | None = None

  def __post_init__(self) -> None:
    for name, value, low in (("ratio", self.ratio, 0.0), ("bound", 1.0 if self.bound is None else self.bound, 0.0)):
      if not low < value <= 1:
        raise ConfigError(f"config.objective.{name}", f"got {value:g}", accepted="above 0, at most 1")
    if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
      raise ConfigError("config.objective.mask_share", f"{self.mask_share:g} masked and {self.random_share:g} random",
                        accepted="shares that add up to at most 1")
    if self.longest is not None and (self.longest < 1 or self.unit not in LONGEST):
      raise ConfigError("config.objective.longest", f"got {self.longest} for unit={self.unit!r}",
                        accepted="a whole number from 1, for 'ngram' and 'span'")

  @property
  def fields(self) -> tuple[str, ...]:
    """Batch fields beside those of plain text."""
    return ("phrase_ids",) if self.unit == "phrase" else ()

  @property
  def cut(self) -> bool:
    """Whether the last unit is cut to the tokens that are left."""
    return self.unit in ("token", "span")

  def most(self, length: int, knobs: Knobs) -> int:
    """The largest number of masked tokens in a row of `length`, known before the step runs."""
    share = self.bound if self.bound is not None else 1.0 if "mask_ratio" in knobs else self.ratio
    return max(1, min(length, int(share * length + 0.5)))

  def lengths(self) -> np.ndarray:
    """(longest,) the probability of each length in words, from 1 on."""
    n = np.arange(1, (self.longest or LONGEST[self.unit]) + 1)
    p = 1.0 / n if self.unit == "ngram" else (1 - GEOMETRIC) ** (n - 1)
    return p / p.sum()


def mask(masking: Masking, tokenizer: Vocabulary, batch: Batch, key: Key | None,
         knobs: Knobs) -> tuple[jax.Array, jax.Array]:
  """-> (corrupted tokens (B, L), which ones are to be predicted (B, L) bool).

  Of a row's n tokens of text, `ratio` n are masked, rounded, at least 1; words, n-grams and phrases are never masked in
  part, so that of them it is at most so many.
  """
  tokens_BL = batch["tokens"]
  text_BL = is_text(batch, tokenizer)
  keys_B4 = jax.vmap(lambda k: jax.random.split(k, 4))(row_keys(key, tokens_BL))
  unit_BL = units(masking, tokenizer, batch, text_BL, keys_B4[:, 0])
  ratio = knobs.get("mask_ratio", masking.ratio)
  wanted_B = jnp.clip(jnp.floor(ratio * text_BL.sum(1) + 0.5), 1, masking.most(tokens_BL.shape[1], knobs))
  pick = choose if masking.cut else choose_whole
  chosen_BL = jax.vmap(pick)(keys_B4[:, 1], unit_BL, text_BL, wanted_B)
  dice_BL = jax.vmap(lambda k: jax.random.uniform(k, tokens_BL.shape[1:]))(keys_B4[:, 2])
  if masking.unit == "span":  # what is chosen of a span is masked, replaced or kept together
    dice_BL = jnp.take_along_axis(dice_BL, unit_BL, axis=1)
  ids = jnp.asarray(ordinary_ids(tokenizer))
  random_BL = ids[jax.vmap(lambda k: jax.random.randint(k, tokens_BL.shape[1:], 0, len(ids)))(keys_B4[:, 3])]
  corrupted_BL = jnp.where(dice_BL < masking.mask_share, special_id(tokenizer, "mask"), jnp.where(
      dice_BL < masking.mask_share + masking.random_share, random_BL, tokens_BL))
  return jnp.where(chosen_BL, corrupted_BL, tokens_BL), chosen_BL


def units(masking: Masking, tokenizer: Vocabulary, batch: Batch, text_BL: jax.Array, keys_B: Key) -> jax.Array:
  """(B, L) int32: number of each token's unit within its row, from 0, never falling. Units end with their document."""
  changed = lambda x_BL: jnp.pad(x_BL[:, 1:] != x_BL[:, :-1], ((0, 0), (1, 0)), constant_values=True)
  if masking.unit == "token":
    return jnp.broadcast_to(jnp.arange(text_BL.shape[1]), text_BL.shape)
  starts_BL = word_starts(batch, tokenizer)
  border_BL = changed(text_BL)
  if "segment_ids" in batch:
    border_BL |= changed(batch["segment_ids"])
  if masking.unit == "phrase":
    phrase_BL = batch["phrase_ids"]
    starts_BL = jnp.where(phrase_BL > 0, changed(phrase_BL), starts_BL | changed(phrase_BL))
  elif masking.unit in LONGEST:
    word_BL = jnp.cumsum(starts_BL | border_BL, axis=1) - 1
    joined_BL = jax.vmap(tiling, (0, 0, None))(keys_B, word_BL, jnp.asarray(masking.lengths()))
    starts_BL = changed(joined_BL)
  return jnp.cumsum(starts_BL | border_BL, axis=1) - 1


def tiling(key: Key, word_L: jax.Array, lengths: jax.Array) -> jax.Array:
  """Words side by side in groups of random lengths: number of each word's group (L,); lengths: p(1), p(2), ..."""
  drawn = 1 + jax.random.choice(key, lengths.shape[0], word_L.shape, p=lengths)
  return jnp.searchsorted(jnp.cumsum(drawn), word_L, side="right")


def shuffled(key: Key, unit_L: jax.Array, text_L: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Units of text in a random order, those without text last: number (L,) and tokens of text (L,) of each."""
  size_U = jnp.zeros(unit_L.shape, jnp.int32).at[unit_L].add(text_L)
  order_U = jnp.argsort(jnp.where(size_U > 0, jax.random.uniform(key, unit_L.shape), 2.0))
  return order_U, size_U[order_U]


def choose(key: Key, unit_L: jax.Array, text_L: jax.Array, wanted: jax.Array) -> jax.Array:
  """(L,) bool: exactly `wanted` tokens of text, or all if there are fewer, in units drawn without replacement; of the
  last unit the first tokens (SpanBERT and XLNet)."""
  order_U, size_U = shuffled(key, unit_L, text_L)
  before_U = jnp.zeros_like(size_U).at[order_U].set(jnp.cumsum(size_U) - size_U)  # tokens of the units drawn earlier
  text_before_L = jnp.cumsum(text_L) - text_L
  first_U = jnp.full_like(text_before_L, unit_L.shape[0]).at[unit_L].min(text_before_L)
  return (before_U[unit_L] + text_before_L - first_U[unit_L] < wanted) & text_L


def choose_whole(key: Key, unit_L: jax.Array, text_L: jax.Array, wanted: jax.Array) -> jax.Array:
  """(L,) bool: at most `wanted` tokens of text in whole units drawn without replacement; one that does not fit is left
  out and the next ones are tried (BERT's whole words, ALBERT's n-grams).

  What once did not fit never fits later, so that each round takes the longest run of those that still may; there are
  few rounds, however many units.
  """
  order_U, size_U = shuffled(key, unit_L, text_L)
  def take(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    taken_U, may_U, left = carry
    run_U = may_U & (jnp.cumsum(size_U * may_U) <= left)
    left = left - (size_U * run_U).sum()
    return taken_U | run_U, may_U & ~run_U & (size_U <= left), left
  none_U, left = jnp.zeros(unit_L.shape, bool), wanted.astype(jnp.int32)
  start = (none_U, (size_U > 0) & (size_U <= left), left)
  taken_U, *_ = jax.lax.while_loop(lambda carry: carry[1].any(), take, start)
  return none_U.at[order_U].set(taken_U)[unit_L] & text_L


def first_positions(chosen_BL: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
  """The places of the chosen tokens, in order: (B, most) int32, and (B, most) bool, False where there are fewer."""
  place_BK = jnp.argsort(~chosen_BL, axis=1, stable=True)[:, :most]
  return place_BK, jnp.take_along_axis(chosen_BL, place_BK, axis=1)
