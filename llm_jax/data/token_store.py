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
from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np

from llm_jax.core.errors import DataError
from llm_jax.data.documents import Document, Split
from llm_jax.data.tokenizers import Tokenizer

INDEX = "streams.json"
BATCH_CHARACTERS = 1 << 20  # text handed to the tokenizer at once, for its threads


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
  """Tokenises documents into `folder`.

  bos, eod: put the tokenizer's begin / end id around each document, where it has one.

  Raises:
    DataError: the tokenizer makes an id outside its own vocabulary.
  """
  dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
  begin = [tokenizer.begin_of_document] if bos and tokenizer.begin_of_document is not None else []
  end = [tokenizer.end_of_document] if eod and tokenizer.end_of_document is not None else []
  writers: dict[tuple[Split, str], _Writer] = {}
  try:
    for rows in _in_batches(documents):
      for (split, document), ids in zip(rows, tokenizer.encode_batch([d.text for _, d in rows])):
        if ids.size and (ids.min() < 0 or ids.max() >= tokenizer.vocab_size):
          raise DataError(f"{document.where}: token id {ids.max()} is not in the vocabulary of {tokenizer.vocab_size}")
        key = (split, document.domain)
        if key not in writers:
          writers[key] = _Writer(folder, f"{len(writers):03d}", split, document.domain, dtype)
        writers[key].add(np.concatenate([begin, ids, end]) if begin or end else ids, document)
  finally:
    for writer in writers.values():
      writer.close()
  rows_ = [writer.row() for _, writer in sorted(writers.items())]
  (folder / INDEX).write_text(json.dumps(rows_, indent=1))


class _Writer:
  """Appends documents to one stream's files."""

  def __init__(self, folder: pathlib.Path, stem: str, split: Split, domain: str, dtype: str):
    self._info = {"stem": stem, "split": split, "domain": domain, "dtype": dtype}
    self._dtype = dtype
    self._files: dict[str, IO[bytes]] = {w: (folder / f"{stem}.{w}").open("wb")
                                         for w in ("tokens", "offsets", "bytes", "difficulty")}
    self._files["offsets"].write(np.int64(0).tobytes())
    self._size = self._documents = self._bytes = 0
    self._rated = True

  def add(self, ids: np.ndarray, document: Document) -> None:
    text_bytes = len(document.text.encode())
    self._rated &= document.difficulty is not None
    rating = math.nan if document.difficulty is None else document.difficulty
    self._files["difficulty"].write(np.array(rating, "<f8").tobytes())
    self._size, self._documents, self._bytes = self._size + len(ids), self._documents + 1, self._bytes + text_bytes
    self._files["tokens"].write(ids.astype(self._dtype).tobytes())
    self._files["offsets"].write(np.array(self._size, "<i8").tobytes())
    self._files["bytes"].write(np.array(text_bytes, "<i8").tobytes())

  def row(self) -> dict[str, Any]:
    return self._info | {"size": self._size, "documents": self._documents, "text_bytes": self._bytes,
                         "rated": self._rated}

  def close(self) -> None:
    for file in self._files.values():
      file.close()
    if not self._rated:
      pathlib.Path(self._files["difficulty"].name).unlink()


def _in_batches(documents: Iterable[tuple[Split, Document]]) -> Iterator[list[tuple[Split, Document]]]:
  batch, size = [], 0
  for item in documents:
    batch.append(item)
    size += len(item[1].text)
    if size >= BATCH_CHARACTERS:
      yield batch
      batch, size = [], 0
  if batch:
    yield batch
