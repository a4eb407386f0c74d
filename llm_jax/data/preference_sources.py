"""Where preferences come from: files of rows, or passages of Python's own prose with a true and a damaged continuation.

A row becomes several documents of the token store, one per text, in streams that run side by side: document i of
'prompt', 'chosen' and 'rejected' are one pair. Rows that share a prompt fall on the same side of the split.
"""

import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from llm_jax.data import tokenizers
from llm_jax.data.documents import BadRow, Document, DocumentSource, Split, together
from llm_jax.data.fingerprint import bytes_digest, digest
from llm_jax.data.preference_texts import Judged, Pair, UnfitRowError, judged_of, pair_of
from llm_jax.data.row_files import SplitFiles
from llm_jax.data.stdlib import FallbackText, library

Form = Literal["pairs", "unpaired"]
Damage = Literal["words", "letters", "elsewhere"]
PAIRS = ("prompt", "chosen", "rejected")
WANTED, UNWANTED = ("wanted prompt", "wanted"), ("unwanted prompt", "unwanted")
SHORTEST = 6  # words of a continuation


def documents_of(said: Sequence[Pair | Judged], where: str, group: str, split: Split | None) -> list[Document]:
  """The texts of one row, each in its stream; a margin is kept as a rating of 'chosen'."""
  texts: list[tuple[str, str, float | None]] = []
  for one in said:
    if isinstance(one, Pair):
      texts += zip(PAIRS, one[:3], (None, one.margin, None))
    else:
      texts += [(name, text, None) for name, text in zip(WANTED if one.wanted else UNWANTED, one[:2])]
  return [Document(text, name, where, group=group, split=split, difficulty=rating, counts=not i)
          for i, (name, text, rating) in enumerate(texts)]


class PreferenceFiles:
  """A DocumentSource over .jsonl, .jsonl.gz, .parquet or .csv files of preferences."""

  def __init__(self, path: str, validation_path: str | None, form: Form, cache_dir: pathlib.Path):
    self._files, self._form = SplitFiles("preferences", path, validation_path, cache_dir), form
    self.description = self._files.description
    self.fingerprint = digest("preferences", form, self._files.digests)

  def documents(self) -> Iterator[Document | BadRow]:
    for part, where, row in self._files.rows():
      try:
        said: Sequence[Pair | Judged] = [pair_of(row)] if self._form == "pairs" else judged_of(row)
      except UnfitRowError as e:
        yield BadRow(where, str(e))
        continue
      yield from together(documents_of(said, where, said[0].prompt, part))


class LibraryPassages:
  """A DocumentSource over passages of Python's prose: the first quarter is the prompt, the rest the continuation. The
  other completion has the continuation's words in another order, the letters within each word in another order, or is
  the continuation of another passage."""

  def __init__(self, form: Form, damage: Damage, characters: int):
    self._library: DocumentSource = library(("prose",)) or FallbackText()
    self._form, self._damage, self._characters = form, damage, characters
    self.description = f"passages of {self._library.description}, against {DAMAGED[damage][0]}"
    self.fingerprint = digest("passages", 1, form, damage, characters, self._library.fingerprint)

  def documents(self) -> Iterator[Document | BadRow]:
    passages = list(self._passages())
    half = len(passages) // 2
    for i, (where, group, prompt, true) in enumerate(passages):
      other = DAMAGED[self._damage][1](true, passages[(i + half) % len(passages)][3])
      said: list[Pair | Judged] = [Pair(prompt, true, other)] if self._form == "pairs" else [
          Judged(prompt, true, True), Judged(prompt, other, False)]
      if other != true:
        yield from documents_of(said, where, group, None)

  def _passages(self) -> Iterator[tuple[str, str, str, str]]:
    """(where, group, beginning, continuation)."""
    for document in self._library.documents():
      assert isinstance(document, Document)
      for i, passage in enumerate(tokenizers.chunks(document.text, self._characters)):
        cut = re.search(r"\s", passage[len(passage) // 4:])
        end = len(passage) // 4 + cut.start() if cut else len(passage)
        if passage[:end].strip() and len(passage[end:].split()) >= SHORTEST:
          yield f"{document.where}:{i}", document.group or document.where, passage[:end], passage[end:]


def _generator(text: str) -> np.random.Generator:
  return np.random.default_rng(int(bytes_digest(text.encode())[:15], 16))


def _other_words(text: str, other: str) -> str:
  """The words in another order, with the white space where it was."""
  parts = re.split(r"(\s+)", text)
  words = [i for i, part in enumerate(parts) if part.strip()]
  for i, part in zip(words, _generator(text).permutation(np.array([parts[i] for i in words], object))):
    parts[i] = part
  return "".join(parts)


def _other_letters(text: str, other: str) -> str:
  """Every word with its letters in another order."""
  random = _generator(text)
  return re.sub(r"\w{3,}", lambda word: "".join(random.permutation(list(word.group()))), text)


DAMAGED = {"words": ("the same words in another order", _other_words),
           "letters": ("the same letters in another order within words", _other_letters),
           "elsewhere": ("the continuation of another passage", lambda text, other: other)}
