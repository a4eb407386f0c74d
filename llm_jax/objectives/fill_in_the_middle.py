"""Fill in the middle (Bavarian et al. 2022): a causal model learns to write what stands between a prefix and a suffix.

    PSM: <pre> prefix <suf> suffix <mid> middle        SPM: <pre> <suf> suffix <mid> prefix middle      (section 3)

A share of a row's documents is cut in three at places drawn evenly and rearranged; what no longer fits into the row
falls off its end. The three marks are the tokenizer's first sentinels. The loss is that of causal language modelling.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params, Vocabulary
from llm_jax.objectives import causal_lm
from llm_jax.objectives.noise_spans import check_sentinels
from llm_jax.objectives.text_rows import real_tokens, row_keys, two_keys

MARKS = 3  # <pre>, <suf>, <mid>


@dataclasses.dataclass(frozen=True)
class FillInTheMiddle(Objective):
  """Cross-entropy in nats per target token of the rearranged row."""

  rate: float
  suffix_first: float
  causal: causal_lm.CausalLM
  tokenizer: Vocabulary | None = None
  fields: tuple[str, ...] = ("tokens", "targets", "weights")
  needs: tuple[str, ...] = ("causal",)

  def for_tokenizer(self, tokenizer: Vocabulary) -> "FillInTheMiddle":
    check_sentinels(tokenizer, MARKS)
    return dataclasses.replace(self, tokenizer=tokenizer)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    move_key, model_key = two_keys(key)
    return self.causal(apply, params, self.rearranged(batch, move_key), model_key, knobs)

  def rearranged(self, batch: Batch, key: Key | None) -> Batch:
    """The batch with some documents rearranged: tokens, targets, weights, segment_ids, positions."""
    assert self.tokenizer is not None
    tokens_BL = batch["tokens"]
    segments_BL = batch.get("segment_ids", real_tokens(batch).astype(jnp.int32))
    # One more column: the last target, where it belongs to the row's last document.
    goes_on_B = batch["weights"][:, -1] > 0
    row_BM = jnp.concatenate([tokens_BL, batch["targets"][:, -1:]], axis=1)
    of_BM = jnp.concatenate([segments_BL, jnp.where(goes_on_B, segments_BL[:, -1], 0)[:, None]], axis=1)
    special = self.tokenizer.special
    end = special.get("eod", special.get("eos", -1))
    marks = jnp.asarray(self.tokenizer.sentinels[:MARKS])
    move = lambda key, row, of: rearrange(key, row, of, self.rate, self.suffix_first, marks, end)
    row_BM, of_BM, place_BM = jax.vmap(move)(row_keys(key, tokens_BL), row_BM, of_BM)
    weights = (of_BM[:, 1:] == of_BM[:, :-1]) & (of_BM[:, 1:] > 0)
    moved = dict(tokens=row_BM[:, :-1], targets=row_BM[:, 1:], weights=weights.astype(jnp.float32))
    return moved | (dict(segment_ids=of_BM[:, :-1], positions=place_BM[:, :-1]) if "segment_ids" in batch else {})


def rearrange(key: Key, row_M: jax.Array, of_M: jax.Array, rate: float, suffix_first: float, marks: jax.Array,
              end: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """One row and its documents' numbers (0: padding), rearranged: tokens, numbers, places in the document, (M,) each.

  A document's last token stays last where it is `end`. Documents of fewer than three tokens stay as they are.
  """
  M = row_M.shape[0]
  moves_key, kind_key, cuts_key = jax.random.split(key, 3)
  count = lambda is_M: jnp.zeros(M + 2, jnp.int32).at[of_M].add(is_M)
  size_N = count(jnp.ones(M, jnp.int32)).at[0].set(0)
  last_M = jnp.pad(of_M[1:] != of_M[:-1], (0, 1), constant_values=True)
  body_N = size_N - count((last_M & (row_M == end)).astype(jnp.int32)).at[0].set(0)
  moved_N = jax.random.bernoulli(moves_key, rate, size_N.shape) & (body_N >= 3)
  suffix_N = jax.random.bernoulli(kind_key, suffix_first, size_N.shape)
  cuts_2N = jnp.sort(jax.random.randint(cuts_key, (2, M + 2), 0, body_N + 1), axis=0)
  long_N = size_N + MARKS * moved_N
  first_N = jnp.cumsum(long_N) - long_N

  in_M = jnp.arange(M) - (jnp.cumsum(size_N) - size_N)[of_M]  # place within the document
  a, b, m, moved_M, suffix_M = (x_N[of_M] for x_N in (cuts_2N[0], cuts_2N[1], body_N, moved_N, suffix_N))
  prefix = in_M < a
  middle = (in_M >= a) & (in_M < b)
  in_psm = jnp.where(prefix, 1 + in_M, jnp.where(middle, 3 + m - b + in_M, 2 + a + in_M - b))
  in_spm = jnp.where(prefix | middle, 3 + m - b + in_M, 2 + in_M - b)
  to_M = jnp.where(moved_M, jnp.where(in_M >= m, in_M + MARKS, jnp.where(suffix_M, in_spm, in_psm)), in_M)
  to_M = jnp.where(of_M > 0, first_N[of_M] + to_M, M)  # past the end: dropped

  a, b = cuts_2N
  marks_3N = jnp.stack([jnp.zeros_like(a), jnp.where(suffix_N, 1, 1 + a),
                        jnp.where(suffix_N, 2 + body_N - b, 2 + a + body_N - b)])
  marks_3N = jnp.where(moved_N, first_N + marks_3N, M)
  def placed(of_tokens: jax.Array, of_marks: jax.Array, otherwise: jax.Array) -> jax.Array:
    moved = otherwise.at[to_M].set(of_tokens, mode="drop")
    return moved.at[marks_3N].set(jnp.broadcast_to(of_marks, marks_3N.shape), mode="drop")
  empty = jnp.zeros(M, jnp.int32)
  numbers = placed(of_M, jnp.arange(M + 2), empty)
  tokens = placed(row_M, marks[:, None], row_M)
  places = placed(to_M - first_N[of_M], marks_3N - first_N, empty)
  return tokens, numbers, places


def build(*, rate: float = 0.5, suffix_first: float = 0.5, z_loss: float = 0.0,
          chunk: int | str = "auto") -> FillInTheMiddle:
  """Fill in the middle.

  Args:
    rate: share of the documents that are rearranged; the others stay causal rows.
    suffix_first: of those, how many have the suffix before the prefix (SPM).
    z_loss: weight of log(Z)^2.
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.
  """
  for name, value in (("rate", rate), ("suffix_first", suffix_first)):
    if not 0 <= value <= 1:
      raise ConfigError(f"config.objective.{name}", f"got {value:g}", accepted="between 0 and 1")
  return FillInTheMiddle(rate, suffix_first, causal_lm.build(z_loss=z_loss, chunk=chunk))
