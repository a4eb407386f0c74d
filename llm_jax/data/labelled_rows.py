"""Rows of labelled texts: one text a row, cut at the row's length, with the number of its label.

A label's texts are one token stream, a text is a document of it. Training serves every text once per epoch in an order
keyed by seed and epoch; evaluation serves every held-out text once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_jax.core.types import Batch, Plan
from llm_jax.data.fingerprint import digest
from llm_jax.data.passes import Passes
from llm_jax.data.token_store import Stream

FIELDS = {"tokens": "(B, L) int32 input ids", "segment_ids": "(B, L) int32 1 where there is text, 0 = padding",
          "labels": "(B,) int32 number of the text's label", "weights": "(B,) float32 1 where the row counts"}


class LabelledSource:
  """A DataSource over labelled texts; with `once` an evaluation set, whose steps are one pass in a fixed order."""

  fields: Mapping[str, str] = FIELDS
  bytes_per_token: float | None = None  # a loss per text, not per token
  boundaries = True

  def __init__(self, streams: Sequence[Stream], labels: Sequence[str], *, fingerprint: str, seed: int, pad: int,
               reverse: bool, once: bool = False):
    """streams: one per label that has texts; labels: all labels, in the order of their numbers. reverse: the last token
    of the kept text comes first."""
    self.streams, self.labels, self.classes = tuple(streams), tuple(labels), len(labels)
    self.seed, self.pad, self.reverse, self.once = seed, pad, reverse, once
    self.counts = np.array([s.documents for s in streams], np.int64)
    self.fingerprint = digest(fingerprint, self.labels, reverse)

  @property
  def _passes(self) -> Passes:
    return Passes(int(self.counts.sum()), self.seed, "labelled", self.once)

  def batches(self, batch: int, length: int) -> int:
    """Steps in a pass over all texts."""
    return self._passes.batches(batch)

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch:
    """Rows `rows` (default all) of the batch of `step`; raises as `Passes.places`."""
    place, counts = self._passes.places(step, plan)
    return self._rows(place[rows or slice(None)], counts[rows or slice(None)], plan.length)

  def _rows(self, texts: np.ndarray, counts: np.ndarray, length: int) -> Batch:
    ends = np.cumsum(self.counts)
    which = np.searchsorted(ends, texts, side="right")
    batch: dict[str, Any] = {"tokens": np.full((len(texts), length), self.pad, np.int32),
                             "segment_ids": np.zeros((len(texts), length), np.int32)}
    for r, (s, text) in enumerate(zip(which.tolist(), texts.tolist())):
      stream, number = self.streams[s], text - int(ends[s] - self.counts[s])
      ids = stream.document(number)[:length]
      batch["tokens"][r, :len(ids)] = ids[::-1] if self.reverse else ids
      batch["segment_ids"][r, :len(ids)] = 1
    numbers = np.array([self.labels.index(s.domain) for s in self.streams], np.int32)
    return batch | {"labels": numbers[which], "weights": counts.astype(np.float32)}
