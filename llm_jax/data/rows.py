"""From places in token streams to the arrays of a batch: the innermost loop of the data path.

A row of L tokens has L targets, the next tokens. Where the next token belongs to another document, or there is none,
the weight is 0. Segment ids count the documents of a row from 1, and 0 is padding; positions restart at every document.
"""

import numpy as np

from llm_jax.data.packing import Table
from llm_jax.data.token_store import Stream

FIELDS = {
    "tokens": "(B, L) int32 input ids",
    "targets": "(B, L) int32 the token after each input",
    "segment_ids": "(B, L) int32 number of the document within the row, from 1; 0 = padding",
    "positions": "(B, L) int32 place within the document's part in this row, from 0",
    "weights": "(B, L) float32 1 where the target counts, 0 where it is another document's or padding",
}

WHENCE = {"domain": "(B,) int32 number of the domain", "document": "(B, L) int64 number of the document in its stream, "
          "-1 for padding"}


def empty_rows(count: int, length: int, pad: int) -> dict[str, np.ndarray]:
  """A batch of nothing but padding."""
  return {
      "tokens": np.full((count, length), pad, np.int32), "targets": np.full((count, length), pad, np.int32),
      "segment_ids": np.zeros((count, length), np.int32), "positions": np.zeros((count, length), np.int32),
      "weights": np.zeros((count, length), np.float32),
  }


def concat_rows(batch: dict[str, np.ndarray], rows: np.ndarray, stream: Stream, starts: np.ndarray, *,
                boundaries: bool, wrap: bool, pad: int) -> None:
  """Fills `rows` of `batch` with the windows at `starts` of the stream, which run across documents.

  boundaries: mark documents by segment, position and weight; False is one plain stream. wrap: after the stream's end
  comes its start; False leaves the rest of the row padded.
  """
  length, size, tokens, offsets = batch["tokens"].shape[1], stream.size, stream.tokens, stream.offsets
  block = np.full((len(rows), length + 1), pad, np.int32)
  new = np.zeros((len(rows), length + 1), bool)  # a document starts here
  first = np.searchsorted(offsets, starts, side="right")
  last = np.searchsorted(offsets, starts + length, side="right")
  for r, start in enumerate(starts.tolist()):
    end = min(start + length + 1, size)
    block[r, :end - start] = tokens[start:end]
    if boundaries:
      new[r, offsets[first[r]:last[r]] - start] = True
    if wrap and end - start <= length:
      missing = length + 1 - (end - start)
      block[r, end - start:] = tokens[:missing]
      if boundaries:
        new[r, offsets[:np.searchsorted(offsets, missing)] + (end - start)] = True
  batch["tokens"][rows], batch["targets"][rows] = block[:, :-1], block[:, 1:]
  place = np.arange(length, dtype=np.int32)
  batch["segment_ids"][rows] = 1 + np.cumsum(new[:, :-1], axis=1, dtype=np.int32)
  batch["positions"][rows] = place - np.maximum.accumulate(np.where(new[:, :-1], place, 0), axis=1)
  batch["weights"][rows] = ~new[:, 1:]
  if not wrap:
    _clear_tail(batch, rows, size - starts)


def _clear_tail(batch: dict[str, np.ndarray], rows: np.ndarray, left: np.ndarray) -> None:
  """Makes padding of what lies past the stream's end; left: (R,) tokens from each row's start to the end."""
  short = left <= batch["tokens"].shape[1]
  for r, n in zip(rows[short].tolist(), left[short].tolist()):
    batch["weights"][r, n - 1:] = 0
    batch["segment_ids"][r, n:] = 0
    batch["positions"][r, n:] = 0


def packed_rows(batch: dict[str, np.ndarray], rows: np.ndarray, stream: Stream, table: Table,
                windows: np.ndarray) -> None:
  """Fills `rows` of `batch` with the table's rows `windows`: whole documents side by side, then padding."""
  place = np.arange(batch["tokens"].shape[1], dtype=np.int32)
  tokens, targets, segments = batch["tokens"], batch["targets"], batch["segment_ids"]
  positions, weights = batch["positions"], batch["weights"]
  for r, window in zip(rows.tolist(), windows.tolist()):
    left = 0
    pieces = slice(table.rows[window], table.rows[window + 1])
    columns = (table.starts[pieces].tolist(), table.lengths[pieces].tolist(), table.continues[pieces].tolist())
    for segment, (start, size, continues) in enumerate(zip(*columns), 1):
      right = left + size
      block = stream.tokens[start:start + size + continues]
      tokens[r, left:right] = block[:size]
      targets[r, left:left + len(block) - 1] = block[1:]
      segments[r, left:right] = segment
      positions[r, left:right] = place[:size]
      weights[r, left:left + len(block) - 1] = 1
      left = right


def whence(domain: int, stream: Stream, windows: np.ndarray, length: int, table: Table | None) -> dict[str, np.ndarray]:
  """Where the tokens of some windows, as they lie in the stream, are from: `WHENCE`; table: of a packing."""
  document = np.full((len(windows), length), -1, np.int64)
  if table is None:
    document[:] = (windows * length)[:, None] + np.arange(length)
  else:
    for r, window in enumerate(windows.tolist()):
      pieces = slice(table.rows[window], table.rows[window + 1])
      places = [np.arange(s, s + n) for s, n in zip(table.starts[pieces].tolist(), table.lengths[pieces].tolist())]
      filled = np.concatenate(places) if places else np.zeros(0, np.int64)
      document[r, :len(filled)] = filled
  real = document >= 0
  document[real] = np.searchsorted(stream.offsets, document[real], side="right") - 1
  return {"domain": np.full(len(windows), domain, np.int32), "document": document}
