"""Rows of preferences: prompt and completion in one row, with the part that each token is of (objectives score the
completion alone). Both rows of a pair hold the same end of the prompt.

A completion ends with the tokenizer's end id, where it has one. Where both do not fit, the prompt keeps its last
tokens, at least half of the row, and the completion its first.
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_jax.core.row_parts import COMPLETION, PADDING, PROMPT
from llm_jax.core.types import Batch, Plan
from llm_jax.data.fingerprint import digest
from llm_jax.data.passes import Passes
from llm_jax.data.preference_sources import PAIRS, UNWANTED, WANTED
from llm_jax.data.token_store import Stream
from llm_jax.data.tokenizers import Tokenizer

PAIR_FIELDS = {
    "chosen": "(B, L) int32 ids of prompt and preferred completion", "rejected": "(B, L) int32 those of the other",
    "chosen_parts": "(B, L) int32 0 = padding, 1 = prompt, 2 = completion", "rejected_parts": "(B, L) int32 the same",
    "margin": "(B,) float32 by how much the first is better; 0 where the data do not say",
    "weights": "(B,) float32 1 where the pair counts"}
JUDGED_FIELDS = {
    "completion": "(B, L) int32 ids of prompt and completion", "mismatched": "(B, L) int32 those with the completion "
    "of the batch's next row", "completion_parts": "(B, L) int32 0 = padding, 1 = prompt, 2 = completion",
    "mismatched_parts": "(B, L) int32 the same", "label": "(B,) float32 1 where the completion is wanted, else 0",
    "weights": "(B,) float32 1 where the row counts"}


class PreferenceRows(abc.ABC):
  """A DataSource whose examples are numbered; with `once` an evaluation set."""

  fields: Mapping[str, str] = {}
  bytes_per_token: float | None = None  # a loss per pair, not per token
  boundaries = True

  def __init__(self, streams: Sequence[Stream], tokenizer: Tokenizer, *, fingerprint: str, seed: int, bos: bool,
               eod: bool, once: bool = False):
    """streams: of one split, by their domains. bos, eod: put the tokenizer's ids around each row, where it has them."""
    self.streams = {s.domain: s for s in streams}
    ends = (tokenizer.begin_of_document if bos else None, tokenizer.end_of_document if eod else None)
    self.begin, self.end = ([] if i is None else [i] for i in ends)
    self.pad, self.seed, self.once = tokenizer.special.get("pad", 0), seed, once
    self.fingerprint = digest(fingerprint, type(self).__name__, bos, eod)

  @property
  @abc.abstractmethod
  def total(self) -> int:
    """Number of examples."""

  @abc.abstractmethod
  def _filled(self, mine: np.ndarray, others: np.ndarray, length: int) -> Batch:
    """The rows of examples `mine` (R,); others: (R,) the next example of the batch, after the last the first."""

  @property
  def _passes(self) -> Passes:
    return Passes(self.total, self.seed, "preference", self.once)

  def batches(self, batch: int, length: int) -> int:
    """Steps in a pass over all examples."""
    return self._passes.batches(batch)

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch:
    """Rows `rows` (default all) of the batch of `step`; raises as `Passes.places`."""
    place, counts = self._passes.places(step, plan)
    kept = rows or slice(None)
    return self._filled(place[kept], np.roll(place, -1)[kept], plan.length) | {
        "weights": counts[kept].astype(np.float32)}

  def text(self, domain: str, number: int) -> np.ndarray:
    """The ids of a text."""
    return self.streams[domain].document(number)

  def rows(self, prompt: np.ndarray, completions: Sequence[np.ndarray], length: int) -> list[np.ndarray]:
    """`rows_of` with this source's ids."""
    return rows_of(prompt, completions, length, begin=self.begin, end=self.end, pad=self.pad)


def rows_of(prompt: np.ndarray, completions: Sequence[np.ndarray], length: int, *, begin: Sequence[int],
            end: Sequence[int], pad: int) -> list[np.ndarray]:
  """(2, length) for each completion: ids, and the part that each is of. begin, end: ids around the two."""
  longest = max(map(len, completions)) + len(end)
  room = max(length - longest, length // 2) - len(begin)
  head = [*begin, *prompt[max(len(prompt) - room, 0):]]
  made = []
  for completion in completions:
    ids = np.concatenate([head, completion, end])[:length]
    row = np.full((2, length), pad, np.int32)
    row[1] = PADDING
    row[0, :len(ids)], row[1, :len(head)], row[1, len(head):len(ids)] = ids, PROMPT, COMPLETION
    made.append(row)
  return made


def columns(names: Sequence[str], examples: Sequence[Sequence[np.ndarray]]) -> dict[str, Any]:
  """{name, name_parts: (R, L)} of each example's rows, one per name."""
  stacked = np.array(examples, np.int32)  # (R, names, 2, L)
  ends = enumerate(("", "_parts"))
  return {f"{name}{end}": stacked[:, i, j] for j, end in ends for i, name in enumerate(names)}


class PairRows(PreferenceRows):
  """Two completions of one prompt, the first of them preferred."""

  fields = PAIR_FIELDS

  @property
  def total(self) -> int:
    return self.streams["chosen"].documents

  def _filled(self, mine: np.ndarray, others: np.ndarray, length: int) -> Batch:
    made = []
    for number in mine.tolist():
      prompt, chosen, rejected = (self.text(domain, number) for domain in PAIRS)
      made.append(self.rows(prompt, [chosen, rejected], length))
    chosen_stream = self.streams["chosen"]
    margin = chosen_stream.difficulty[mine] if chosen_stream.rated else np.zeros(len(mine))
    return columns(("chosen", "rejected"), made) | {"margin": margin.astype(np.float32)}


class JudgedRows(PreferenceRows):
  """One completion, wanted or not, and the same prompt with the completion of another row of the batch."""

  fields = JUDGED_FIELDS

  @property
  def total(self) -> int:
    return sum(s.documents for name, s in self.streams.items() if name in (WANTED[1], UNWANTED[1]))

  def _place(self, number: int) -> tuple[tuple[str, str], int]:
    """(names of the streams of its prompt and completion, its number there)."""
    wanted = self.streams[WANTED[1]].documents if WANTED[1] in self.streams else 0
    return (WANTED, number) if number < wanted else (UNWANTED, number - wanted)

  def _filled(self, mine: np.ndarray, others: np.ndarray, length: int) -> Batch:
    made, labels = [], np.array([self._place(number)[0] is WANTED for number in mine.tolist()], np.float32)
    for number, other in zip(mine.tolist(), others.tolist()):
      (prompt, own), place = self._place(number)
      (_, foreign), elsewhere = self._place(other)
      head = self.text(prompt, place)
      made.append([*self.rows(head, [self.text(own, place)], length),
                   *self.rows(head, [self.text(foreign, elsewhere)], length)])
    return columns(("completion", "mismatched"), made) | {"label": labels}
