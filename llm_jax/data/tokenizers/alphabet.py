"""A fixed alphabet: ids from 1 are its characters, 0 is every other character (Zhang, Zhao and LeCun 2015).

Letters are read in lower case. What is outside the alphabet is not kept, so that a round trip gives back only texts of
its characters; a network gives id 0 no vector.
"""

import functools
import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.data.fingerprint import digest
from llm_jax.data.tokenizers import Tokenizer, edges_of, without

# The published 70 characters; the hyphen is there twice, and the second place is never used.
PUBLISHED = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"/\\|_@#$%^&*~`+-=<>()[]{}\n"


def build(context: Any, *, characters: str = PUBLISHED) -> "_Recipe":
  """A tokenizer by characters of a fixed alphabet; it is not trained.

  Args:
    characters: the alphabet in the order of ids.
  """
  if not characters:
    raise ConfigError("config.data.tokenizer.characters", "no characters", accepted="a text that holds each of them")
  return _Recipe(characters)


class _Recipe:
  needs: Literal["nothing"] = "nothing"

  def __init__(self, characters: str):
    self._characters = characters
    self.key = digest("alphabet", characters)

  def train(self, texts: Iterable[str]) -> "AlphabetTokenizer":
    return AlphabetTokenizer(self._characters)


class AlphabetTokenizer(Tokenizer):
  """Id i is `characters[i - 1]`, id 0 any other."""

  kind = "alphabet"

  def __init__(self, characters: str):
    self.characters = characters
    self.special = {"unk": 0}
    self.vocab_size = len(characters) + 1
    self._ids = {c: i for i, c in reversed(list(enumerate(characters, 1)))}

  def encode(self, text: str) -> np.ndarray:
    return np.array([self._ids.get(c, 0) for c in text.lower()], np.int32)

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    return "".join(self.characters[i - 1] for i in without(ids, self.reserved, self.vocab_size).tolist())

  def files(self) -> dict[str, bytes]:
    return {"alphabet.json": json.dumps({"characters": self.characters}).encode()}

  @functools.cached_property
  def token_bytes(self) -> np.ndarray:
    return np.array([1] + [len(c.encode()) for c in self.characters], np.int32)

  @functools.cached_property
  def word_edges(self) -> np.ndarray:
    return edges_of(["", *self.characters])


def restore(files: dict[str, bytes]) -> AlphabetTokenizer:
  """The tokenizer from its saved files."""
  return AlphabetTokenizer(json.loads(files["alphabet.json"])["characters"])
