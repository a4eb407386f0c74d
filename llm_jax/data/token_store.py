"""Documents tokenised once: flat arrays of token ids on disk, memory-mapped, one stream per (split, domain).

A store is a sealed folder named by the fingerprint of source, tokenizer and rules. A stream is `NNN.tokens` (uint16 for
vocabularies up to 65,536, else uint32, little-endian), `NNN.offsets` (int64, where each document starts, and the end),
`NNN.bytes` (int64, UTF-8 bytes of each document's text) and, where the source rates every document, `NNN.difficulty`
(float64).
"""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging

from llm_jax.core.errors import DataError
from llm_jax.data.documents import Document, Split
from llm_jax.data.tokenizers import Tokenizer

INDEX = "streams.json"
BATCH_CHARACTERS = 1 << 20  # text handed to the tokenizer at once, for its threads
FILES = ("tokens", "offsets", "bytes", "difficulty")


@dataclasses.dataclass(frozen=True)
class Stream:
  """The tokens of one domain of one split; pickles by path, so that loader workers map the same file.

  size: number of tokens; documents: number of documents; text_bytes: UTF-8 bytes of all documents; rated: every one has
  a difficulty.
  """

  folder: str
  stem: str
  split: Split
  domain: str
  dtype: str
  size: int
  documents: int
  text_bytes: int
  rated: bool = False

  @functools.cached_property
  def tokens(self) -> np.ndarray:
    """(size,) token ids, memory-mapped."""
    return self._map("tokens", self.dtype)

  @functools.cached_property
  def offsets(self) -> np.ndarray:
    """(documents + 1,) int64: where each document starts in `tokens`, then `size`."""
    return self._map("offsets", "<i8")

  @functools.cached_property
  def document_bytes(self) -> np.ndarray:
    """(documents,) int64: UTF-8 bytes of each document's text."""
    return self._map("bytes", "<i8")

  @functools.cached_property
  def difficulty(self) -> np.ndarray:
    """(documents,) float64: what the source says of each document, if `rated`."""
    return self._map("difficulty", "<f8")

  def document(self, number: int) -> np.ndarray:
    """The ids of one document."""
    return self.tokens[int(self.offsets[number]):int(self.offsets[number + 1])]

  def _map(self, what: str, dtype: str) -> np.ndarray:
    path = pathlib.Path(self.folder) / f"{self.stem}.{what}"
    return np.memmap(path, dtype, mode="r").view(np.ndarray)  # a memmap's own slices cost microseconds each

  def __getstate__(self) -> dict[str, Any]:
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)


def read(folder: pathlib.Path) -> list[Stream]:
  """The streams of a sealed store, train first, in order of domain."""
  return [Stream(folder=str(folder), **row) for row in json.loads((folder / INDEX).read_bytes())]


def write(folder: pathlib.Path, documents: Iterable[tuple[Split, Document]], tokenizer: Tokenizer, *, bos: bool,
          eod: bool) -> None:
  """Tokenises documents into `folder`. A document that has no token (a blank one, to a tokenizer that drops spaces) is
  left out, with all texts of its row, and told.

  bos, eod: put the tokenizer's begin / end id around each document, where it has one.

  Raises:
    DataError: the tokenizer makes an id outside its own vocabulary.
  """
  dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
  begin = [tokenizer.begin_of_document] if bos and tokenizer.begin_of_document is not None else []
  end = [tokenizer.end_of_document] if eod and tokenizer.end_of_document is not None else []
  writers: dict[tuple[Split, str], _Writer] = {}
  without: list[str] = []
  for batch in _in_batches(documents):
    encoded = tokenizer.encode_batch([d.text for _, d in batch])
    whole = [np.concatenate([begin, ids, end]) if begin or end else ids for ids in encoded]
    for row in _rows(batch, whole):
      if not all(ids.size for _, _, ids in row):
        without.append(row[0][1].where)
        continue
      for split, document, ids in row:
        if ids.min() < 0 or ids.max() >= tokenizer.vocab_size:
          raise DataError(f"{document.where}: token id {ids.max()} is not in the vocabulary of {tokenizer.vocab_size}")
        key = (split, document.domain)
        if key not in writers:
          writers[key] = _Writer(folder, f"{len(writers):03d}", split, document.domain, dtype)
        writers[key].add(ids, document)
    for writer in writers.values():
      writer.flush()
  if without:
    logging.warning("%d rows left out, which have no token in this vocabulary; the first: %s", len(without), without[0])
  rows = [writer.finish() for _, writer in sorted(writers.items())]
  (folder / INDEX).write_text(json.dumps(rows, indent=1))


def _rows(documents: Sequence[tuple[Split, Document]],
          encoded: Sequence[np.ndarray]) -> Iterator[list[tuple[Split, Document, np.ndarray]]]:
  """The documents with their ids, those of one row of the source together."""
  row: list[tuple[Split, Document, np.ndarray]] = []
  for (split, document), ids in zip(documents, encoded):
    if document.counts and row:
      yield row
      row = []
    row.append((split, document, ids))
  if row:
    yield row


class _Writer:
  """Appends documents to one stream's files, which are open only while they are written: there may be thousands."""

  def __init__(self, folder: pathlib.Path, stem: str, split: Split, domain: str, dtype: str):
    self._info = {"stem": stem, "split": split, "domain": domain, "dtype": dtype}
    self._dtype = dtype
    self._paths = {what: folder / f"{stem}.{what}" for what in FILES}
    self._waiting: dict[str, list[bytes]] = {what: [] for what in FILES}
    self._waiting["offsets"].append(np.int64(0).tobytes())
    self._size = self._documents = self._bytes = 0
    self._rated = True

  def add(self, ids: np.ndarray, document: Document) -> None:
    text_bytes = len(document.text.encode())
    self._rated &= document.difficulty is not None
    rating = math.nan if document.difficulty is None else document.difficulty
    self._size, self._documents, self._bytes = self._size + len(ids), self._documents + 1, self._bytes + text_bytes
    numbers = np.array([self._size, text_bytes], "<i8")
    arrays = (ids.astype(self._dtype), numbers[0], numbers[1], np.array(rating, "<f8"))
    for what, array in zip(FILES, arrays):
      self._waiting[what].append(array.tobytes())

  def flush(self) -> None:
    """Writes what waits."""
    for what, waiting in self._waiting.items():
      if waiting:
        with self._paths[what].open("ab") as file:
          file.write(b"".join(waiting))
        waiting.clear()

  def finish(self) -> dict[str, Any]:
    """The stream's row of the index."""
    if not self._rated:
      self._paths["difficulty"].unlink()
    return self._info | {"size": self._size, "documents": self._documents, "text_bytes": self._bytes,
                         "rated": self._rated}


def _in_batches(documents: Iterable[tuple[Split, Document]]) -> Iterator[list[tuple[Split, Document]]]:
  batch: list[tuple[Split, Document]] = []
  size = 0
  for item in documents:
    if size >= BATCH_CHARACTERS and item[1].counts:  # the texts of a row stay together
      yield batch
      batch, size = [], 0
    batch.append(item)
    size += len(item[1].text)
  if batch:
    yield batch
