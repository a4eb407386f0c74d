"""Words as tokens, parted by white space, with the end of a line as a word of its own.

That is the protocol of language models of the Penn Treebank (Mikolov et al. 2010; Zaremba et al. 2014).

The vocabulary is the most frequent words of the training split; every other word is '<unk>', also where the text says
so itself. White space is not kept: a decoded text has one space between words, so that a round trip gives back texts
that are written like that, of known words.
"""

import collections
import functools
import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from llm_jax.core.errors import ConfigError, unknown_name
from llm_jax.data.fingerprint import digest
from llm_jax.data.tokenizers import SPECIALS, Tokenizer, place_specials, without

UNKNOWN, LINE = "<unk>", "\n"


def build(context: Any, *, vocab_size: int | None = None, special: tuple[str, ...] = ()) -> "_Recipe":
  """The most frequent words of the training split.

  Args:
    vocab_size: most ids there are, with those of '<unk>' and of the special roles; None keeps every word.
    special: roles that get an id beside 'unk', in this order, e.g. ('eod', 'bos', 'pad', 'mask').
  """
  for role in special:
    if role not in SPECIALS or role == "unk":
      raise unknown_name("config.data.tokenizer.special", role, [s for s in SPECIALS if s != "unk"], what="role")
  if vocab_size is not None and vocab_size < len(special) + 2:
    raise ConfigError("config.data.tokenizer.vocab_size", f"got {vocab_size}", accepted=f"at least {len(special) + 2}")
  return _Recipe(vocab_size, tuple(special))


class _Recipe:
  needs: Literal["train"] = "train"

  def __init__(self, vocab_size: int | None, special: tuple[str, ...]):
    self._size, self._special = vocab_size, special
    self.key = digest("words", vocab_size, special)

  def train(self, texts: Iterable[str]) -> "WordTokenizer":
    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
      counts.update(split(text))
    counts.pop(UNKNOWN, None)
    most = None if self._size is None else self._size - 1 - len(self._special)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
    return WordTokenizer([word for word, _ in ranked], self._special)


class WordTokenizer(Tokenizer):
  """Id i is `words[i]`, from the most frequent on; then '<unk>' and the special ids."""

  kind = "words"

  def __init__(self, words: Sequence[str], roles: Sequence[str]):
    self.words = list(words)
    self.special = place_specials(("unk", *roles), len(words))
    self.vocab_size = len(words) + len(self.special)
    self._ids = {word: i for i, word in enumerate(words)}

  def encode(self, text: str) -> np.ndarray:
    unknown = self.special["unk"]
    return np.array([self._ids.get(word, unknown) for word in split(text)], np.int32)

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    written = [*self.words, UNKNOWN]
    kept = without(ids, [i for role, i in self.special.items() if role != "unk"], self.vocab_size)
    return " ".join(written[i] for i in kept.tolist()).replace(f" {LINE} ", LINE).replace(f" {LINE}", LINE)

  def files(self) -> dict[str, bytes]:
    return {"words.json": json.dumps({"words": self.words, "special": list(self.special)[1:]}).encode()}

  @functools.cached_property
  def token_bytes(self) -> np.ndarray:
    """A word counts with the space before it, '<unk>' as it is written."""
    sizes = [1 if word == LINE else 1 + len(word.encode()) for word in (*self.words, UNKNOWN)]
    return np.array(sizes + [0] * (len(self.special) - 1), np.int32)

  @functools.cached_property
  def word_edges(self) -> np.ndarray:
    return np.ones((self.vocab_size, 2), bool)


def split(text: str) -> list[str]:
  """The words of a text, and the end of every line."""
  lines = text.split(LINE)
  found = [word for line in lines[:-1] for word in (*line.split(), LINE)]
  return found + lines[-1].split()


def restore(files: dict[str, bytes]) -> WordTokenizer:
  """The tokenizer from its saved files."""
  saved = json.loads(files["words.json"])
  return WordTokenizer(saved["words"], saved["special"])
