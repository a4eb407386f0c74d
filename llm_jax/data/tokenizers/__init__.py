"""Tokenizers: plug-ins whose `build(context, *, knobs)` returns a recipe, and what every trained tokenizer can do.

A recipe says which documents it needs and trains on them; the tokenizer that comes out is lossless on text, never
makes a special id from text, and saves itself into a folder, so that a run's workdir can generate without its data.
"""

import abc
import functools
import json
import pathlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Protocol

import numpy as np

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError, DataError
from llm_jax.data.fingerprint import bytes_digest, digest, write_atomically

ROOM = "data/tokenizers"
INFO = "tokenizer_info.json"
SPECIALS = ("bos", "eos", "eod", "pad", "unk", "cls", "sep", "mask")  # the roles that the rest of the code asks for


class Tokenizer(abc.ABC):
  """A trained tokenizer.

  kind: the plug-in that made it; vocab_size: V, all ids are in [0, V); special: {role: id} for the roles it has, of
  `SPECIALS`; sentinels: ids that stand for left-out text, the first one the largest. Text never encodes to any of them,
  and they decode to nothing.
  """

  kind: str
  vocab_size: int
  special: dict[str, int]
  sentinels: tuple[int, ...] = ()

  @abc.abstractmethod
  def encode(self, text: str) -> np.ndarray:
    """(n,) int32 ids of `text`, no special ids added. DataError if the text cannot be written in this vocabulary."""

  @abc.abstractmethod
  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """The text; `decode(encode(text)) == text`. A torn UTF-8 character shows as U+FFFD."""

  @abc.abstractmethod
  def files(self) -> dict[str, bytes]:
    """{file name: content} from which the plug-in's `restore` makes the same tokenizer."""

  @functools.cached_property
  @abc.abstractmethod
  def token_bytes(self) -> np.ndarray:
    """(V,) int32: UTF-8 bytes of text that each id stands for, 0 for special ids; their sum is the text's length."""

  @functools.cached_property
  @abc.abstractmethod
  def word_edges(self) -> np.ndarray:
    """(V, 2) bool: a word starts with the token; a word ends with it whatever follows. A token starts a word of a text
    if it has the first, or follows one that has the second. Special ids are words of their own."""

  @property
  def reserved(self) -> tuple[int, ...]:
    """The ids that no text encodes to: special ones and sentinels."""
    return (*self.special.values(), *self.sentinels)

  def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
    """`encode` of each text; faster where the library has threads."""
    return [self.encode(text) for text in texts]

  @property
  def begin_of_document(self) -> int | None:
    """Id put in front of a document: bos, or None."""
    return self.special.get("bos")

  @property
  def end_of_document(self) -> int | None:
    """Id put behind a document: eod, else eos, else None."""
    return self.special.get("eod", self.special.get("eos"))

  @functools.cached_property
  def fingerprint(self) -> str:
    """Changes when any text could encode differently."""
    return digest(self.kind, {name: bytes_digest(content) for name, content in self.files().items()})

  def save(self, folder: pathlib.Path) -> None:
    """Writes the tokenizer's files into `folder`; `load(folder)` reads them back."""
    for name, content in self.files().items():
      write_atomically(folder / name, content)
    info = {"kind": self.kind, "fingerprint": self.fingerprint, "files": sorted(self.files())}
    write_atomically(folder / INFO, json.dumps(info).encode())


class Recipe(Protocol):
  """What a tokenizer plug-in's `build` returns.

  needs: the documents that `train` wants: 'nothing', 'train' (the training split) or 'all'; key: names recipe and
  knobs, so that a trained tokenizer can be found again.
  """

  needs: Literal["nothing", "train", "all"]
  key: str

  def train(self, texts: Iterable[str]) -> Tokenizer: ...


def load(folder: pathlib.Path) -> Tokenizer:
  """The tokenizer that `save` wrote into `folder`.

  Raises:
    DataError: there is none, or it is damaged.
  """
  try:
    info = json.loads((folder / INFO).read_bytes())
    files = {name: (folder / pathlib.PurePath(name).name).read_bytes() for name in info["files"]}
    kind, expected = info["kind"], info["fingerprint"]
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise DataError(f"no readable tokenizer in {folder} ({e})") from e
  if expected != digest(kind, {name: bytes_digest(content) for name, content in files.items()}):
    raise DataError(f"the tokenizer in {folder} is damaged: its files do not have the recorded fingerprint")
  return plugins.find(ROOM, kind, "tokenizer.kind").restore(files)


def place_specials(roles: Sequence[str], first: int) -> dict[str, int]:
  """{role: id}, ids counted up from `first`.

  Raises:
    ConfigError: a role that comes twice.
  """
  if len(set(roles)) < len(roles):
    twice = next(r for r in roles if list(roles).count(r) > 1)
    raise ConfigError("config.data.tokenizer.special", f"{twice!r} is there twice", accepted="each role once")
  return {role: first + i for i, role in enumerate(roles)}


def place_sentinels(count: int, vocab_size: int) -> tuple[int, ...]:
  """The last `count` ids, from the top downwards.

  Raises:
    ConfigError: a negative count.
  """
  if count < 0:
    raise ConfigError("config.data.tokenizer.sentinels", f"got {count}", accepted="a whole number from 0")
  return tuple(range(vocab_size - 1, vocab_size - 1 - count, -1))


def edges_of(pieces: Sequence[str]) -> np.ndarray:
  """`word_edges` of tokens that are written with the spaces around them: a word is a run of letters, digits and marks,
  or one other character. '' is a special token."""
  first = [not p or not _inside(p[0]) for p in pieces]
  last = [not p or not _inside(p[-1]) for p in pieces]
  return np.stack([np.array(first, bool), np.array(last, bool)], axis=1).reshape(-1, 2)


def _inside(character: str) -> bool:
  """Whether a word goes on through this character; one that is torn (U+FFFD, part of a longer one) does not part it."""
  return character.isalnum() or character in "_\ufffd" or unicodedata.category(character).startswith("M")


def without(ids: Sequence[int] | np.ndarray, reserved: Sequence[int], vocab_size: int) -> np.ndarray:
  """`ids` as an array, reserved ids left out.

  Raises:
    DataError: an id outside the vocabulary.
  """
  array = np.asarray(ids, np.int64).reshape(-1)
  if array.size and (array.min() < 0 or array.max() >= vocab_size):
    outside = array[(array < 0) | (array >= vocab_size)][0]
    raise DataError(f"token id {outside} is not in the vocabulary of {vocab_size}")
  return array[~np.isin(array, list(reserved))]


def chunks(text: str, size: int) -> Iterator[str]:
  """`text` cut into pieces of at most `size` characters, after a newline where there is one in the second half."""
  start = 0
  while start < len(text):
    end = min(start + size, len(text))
    if end < len(text):
      newline = text.rfind("\n", start + size // 2, end)
      end = newline + 1 if newline >= 0 else end
    yield text[start:end]
    start = end
