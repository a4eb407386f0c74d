"""Text whose phrases and entities are marked, for objectives that mask them whole (ERNIE: Sun et al. 2019, section 3).

Wraps another data plug-in and adds the field 'phrase_ids'. Phrases are the lines of a file (names of entities, terms),
or are learned from the training text (collocations.py).
"""

import json
import pathlib

import numpy as np
from absl import logging

from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.types import Batch
from llm_jax.data import collocations, sealed_folder
from llm_jax.data.corpus import Corpus, DataContext
from llm_jax.data.fingerprint import digest
from llm_jax.data.marked_text import Spelling, marked, text_of
from llm_jax.data.tokenizers import Tokenizer

FIELDS = {"phrase_ids": "(B, L) int32 number of the phrase within the row that the token is part of, from 1; 0 = none"}
MOST = 2_000_000  # tokens of the training text that phrases are learned from
FILE = "phrases.json"


class Marker:
  """Adds the field to a batch."""

  def __init__(self, phrases: list[collocations.Phrase], tokenizer: Tokenizer):
    self._spelling, self._phrases = Spelling(tokenizer), collocations.index(phrases)

  def __call__(self, batch: Batch) -> Batch:
    return batch | {"phrase_ids": np.stack([self.row(tokens) for tokens in batch["tokens"]])}

  def row(self, tokens_L: np.ndarray) -> np.ndarray:
    """(L,) int32 of a row; a token that holds any part of a phrase is its token."""
    text, ends = self._spelling(tokens_L)
    found = np.zeros(len(ends), np.int32)
    number = 0
    for start, end in collocations.spans(text, self._phrases):
      first, last = np.searchsorted(ends, [start, end - 1], side="right")
      first += int(found[first] > 0)  # the token in which the last phrase ends is that one's
      if first <= last:
        number += 1
        found[first:last + 1] = number
    return found


def build(context: DataContext, *, text: dict, lexicon: str | None = None, threshold: float = 100.0,
          discount: int = 5) -> Corpus:
  """Text with its phrases marked.

  Args:
    text: another data plug-in and its knobs, e.g. dict(name='stdlib').
    lexicon: file with a phrase on each line; None: learned from the training text.
    threshold: least score of two words that make a learned phrase.
    discount: occurrences taken off the count of every pair.
  """
  if threshold <= 0 or discount < 0:
    raise ConfigError("config.data.threshold", f"got {threshold:g}, with discount={discount}",
                      accepted="a number above 0, with a discount from 0")
  corpus, tokenizer = text_of(context, text)
  phrases = read(pathlib.Path(lexicon)) if lexicon is not None else learned(context, corpus, threshold, discount)
  return marked(corpus, Marker(phrases, tokenizer), FIELDS, digest("phrases", phrases), f"{len(phrases):,} phrases")


def read(path: pathlib.Path) -> list[collocations.Phrase]:
  """The phrases of a file, one on each line.

  Raises:
    ConfigError: no such file. DataError: no phrase in it.
  """
  if not path.is_file():
    raise ConfigError("config.data.lexicon", f"no such file {str(path)!r}", accepted="a text file, a phrase on a line")
  found = sorted({tuple(collocations.WORD.findall(line)) for line in path.read_text("utf-8").splitlines()} - {()})
  if not found:
    raise DataError(f"{path}: no phrase in it")
  return found


def learned(context: DataContext, corpus: Corpus, threshold: float, discount: int) -> list[collocations.Phrase]:
  """The phrases of the beginnings of the training streams; found again by what they were learned from."""
  tokenizer = corpus.tokenizer
  assert tokenizer is not None
  def make(folder: pathlib.Path) -> None:
    streams = [s for s in corpus.streams if s.split == "train"]
    logging.info("learning phrases from %d streams", len(streams))
    most = MOST // len(streams)
    pieces = (s.tokens[a:min(b, most)] for s in streams for a, b in zip(s.offsets[:-1], s.offsets[1:]) if a < most)
    phrases = collocations.learn((tokenizer.decode(p) for p in pieces), threshold=threshold, discount=discount)
    (folder / FILE).write_text(json.dumps(phrases))
  made_from = digest("phrases", corpus.fingerprint, threshold, discount, MOST)
  folder = sealed_folder.open_or_build(context.cache_dir / f"phrases-{made_from[:16]}", make)
  return [tuple(phrase) for phrase in json.loads((folder / FILE).read_text("utf-8"))]
