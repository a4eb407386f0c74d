"""Rows that go on where the same rows of the last step ended: packing 'stream', for models that carry a state.

The windows of all domains, in the order of the data, are cut into as many lanes as a batch has rows; step t serves the
t-th window of every lane, and after the last one the epoch starts again. So the order is a function of the step alone,
the field 'continues' says where a row goes on and where it starts anew (the epoch, a domain, a document).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.types import Batch, Plan
from llm_jax.data.fingerprint import digest
from llm_jax.data.rows import FIELDS, concat_rows, empty_rows
from llm_jax.data.token_store import Stream

CONTINUES = {"continues": "(B,) int32 1 where the row goes on where the same row of the last batch ended"}


class ContinuedSource:
  """A DataSource over the training streams, in order. The plan's batch and length must not change during a run."""

  fields: Mapping[str, str] = FIELDS | CONTINUES
  continued = True

  def __init__(self, streams: Sequence[Stream], *, fingerprint: str, document_boundaries: bool = True, pad: int = 0,
               what: str = ""):
    """streams: one per domain. document_boundaries: mark documents; False is one plain stream. pad: unused id. what:
    these data are, for messages."""
    self.streams, self.domains = tuple(streams), tuple(s.domain for s in streams)
    self.boundaries, self.pad, self.what = document_boundaries, pad, what
    self.fingerprint = digest(fingerprint, "stream", document_boundaries)

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch:
    """Rows `rows` (default all) of the batch of `step`.

    Raises:
      DataError: fewer windows of this length than rows. ConfigError: a plan that picks among the windows.
    """
    if plan.admit < 1 or plan.mixture is not None or plan.window is not None:
      raise ConfigError("config.data.packing", "'stream' serves all windows in their order, and the curriculum picks "
                        "among them", accepted="another packing, or a curriculum that leaves the data alone")
    counts = np.array([s.size // plan.length for s in self.streams], np.int64)
    steps = int(counts.sum()) // plan.batch
    if not steps:
      raise too_little(self.what, int(counts.sum()), plan)
    lane = np.arange(plan.batch, dtype=np.int64)[rows or slice(None)]
    window = lane * steps + step % steps
    return fill(self.streams, counts, window, step % steps, plan.length, boundaries=self.boundaries, wrap=True,
                pad=self.pad)

  def windows(self, length: int) -> dict[str, int]:
    """{domain: windows of `length` tokens}."""
    return {s.domain: s.size // length for s in self.streams}


def too_little(what: str, windows: int, plan: Plan) -> DataError:
  """The training split of `what` has fewer windows than the plan has rows."""
  of = f" of {what}" if what else ""
  return DataError(f"the training split{of} has {windows} windows of {plan.length} tokens, fewer than one batch of "
                   f"{plan.batch}\n  lower config.train.batch_size or config.train.length, or give more data")


def fill(streams: Sequence[Stream], counts: np.ndarray, window: np.ndarray, time: int, length: int, *,
         boundaries: bool, wrap: bool, pad: int) -> Batch:
  """The rows of these windows, counted over all streams; one past the last is empty. time: steps since the start."""
  batch = empty_rows(len(window), length, pad)
  batch["continues"] = np.zeros(len(window), np.int32)
  ends = np.cumsum(counts)
  domain = np.searchsorted(ends, window, side="right")
  for d, stream in enumerate(streams):
    mine = np.flatnonzero(domain == d)
    starts = (window[mine] - (ends[d] - counts[d])) * length
    concat_rows(batch, mine, stream, starts, boundaries=boundaries, wrap=wrap, pad=pad)
    new = np.isin(starts, stream.offsets) if boundaries else starts == 0
    batch["continues"][mine] = (time > 0) & ~new
  return batch
