"""Characters as tokens: the vocabulary is the set of characters in the data, in code point order.

With no special ids this is the character-level protocol of char-rnn and nanoGPT (65 ids for tiny Shakespeare). The
vocabulary is read from both splits, since a character seen only in validation could not be written otherwise.
"""

import functools
import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from llm_jax.core.errors import DataError, unknown_name
from llm_jax.data.fingerprint import digest
from llm_jax.data.tokenizers import SPECIALS, Tokenizer, edges_of, place_sentinels, place_specials, without

CODE_POINTS = 0x110000


def build(context: Any, *, special: tuple[str, ...] = (), sentinels: int = 0) -> "_Recipe":
  """Characters of the data, in code point order, then the special ids.

  Args:
    special: roles that get an id above the characters, in this order, e.g. ('eod', 'bos', 'pad', 'mask').
    sentinels: further ids at the top, for left-out text (span corruption).
  """
  for role in special:
    if role not in SPECIALS:
      raise unknown_name("config.data.tokenizer.special", role, SPECIALS, what="role")
  return _Recipe(tuple(special), sentinels)


class _Recipe:
  needs: Literal["all"] = "all"

  def __init__(self, special: tuple[str, ...], sentinels: int):
    self._special, self._sentinels = special, sentinels
    self.key = digest("characters", special, *([sentinels] if sentinels else []))

  def train(self, texts: Iterable[str]) -> "CharacterTokenizer":
    seen = np.zeros(CODE_POINTS, bool)
    for text in texts:
      seen[_code_points(text)] = True
    return CharacterTokenizer("".join(map(chr, np.flatnonzero(seen))), self._special, self._sentinels)


class CharacterTokenizer(Tokenizer):
  """Id i is `alphabet[i]`; special ids follow."""

  kind = "characters"

  def __init__(self, alphabet: str, roles: Sequence[str], sentinels: int = 0):
    self.alphabet = alphabet
    self.special = place_specials(roles, len(alphabet))
    self.vocab_size = len(alphabet) + len(self.special) + sentinels
    self.sentinels = place_sentinels(sentinels, self.vocab_size)
    self._points = _code_points(alphabet)
    self._ids = np.full(CODE_POINTS, -1, np.int32)
    self._ids[self._points] = np.arange(len(alphabet))

  def encode(self, text: str) -> np.ndarray:
    ids = self._ids[_code_points(text)]
    if ids.size and ids.min() < 0:
      raise DataError(f"character {text[int(ids.argmin())]!r} is not one of the {len(self.alphabet)} characters of "
                      "this tokenizer's training text")
    return ids

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    return self._points[without(ids, self.reserved, self.vocab_size)].tobytes().decode("utf-32-le")

  def files(self) -> dict[str, bytes]:
    saved: dict[str, Any] = {"alphabet": self.alphabet, "special": list(self.special)}
    saved |= {"sentinels": len(self.sentinels)} if self.sentinels else {}
    return {"characters.json": json.dumps(saved).encode()}

  @functools.cached_property
  def token_bytes(self) -> np.ndarray:
    return np.array([len(c.encode()) for c in self.alphabet] + [0] * len(self.reserved), np.int32)

  @functools.cached_property
  def word_edges(self) -> np.ndarray:
    return edges_of([*self.alphabet, *[""] * len(self.reserved)])


def restore(files: dict[str, bytes]) -> CharacterTokenizer:
  """The tokenizer from its saved files."""
  saved = json.loads(files["characters.json"])
  return CharacterTokenizer(saved["alphabet"], saved["special"], saved.get("sentinels", 0))


def _code_points(text: str) -> np.ndarray:
  """(n,) uint32 code points."""
  return np.frombuffer(text.encode("utf-32-le"), "<u4")
