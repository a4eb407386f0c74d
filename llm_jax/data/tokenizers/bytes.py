"""UTF-8 bytes as tokens: no training, any text, 256 ids and the special ones above them.

The byte-level models of Xue et al., "ByT5" (TACL 2022), start from the same alphabet.
"""

import functools
import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from llm_jax.core.errors import unknown_name
from llm_jax.data.fingerprint import digest
from llm_jax.data.tokenizers import SPECIALS, Tokenizer, edges_of, place_sentinels, place_specials, without


def build(context: Any, *, special: tuple[str, ...] = ("eod", "bos", "pad", "cls", "sep", "mask"),
          sentinels: int = 0) -> "_Recipe":
  """Bytes: id = byte, then the special ids.

  Args:
    special: roles that get an id above 255, in this order; () for exactly 256 ids.
    sentinels: further ids at the top, for left-out text (span corruption).
  """
  for role in special:
    if role not in SPECIALS:
      raise unknown_name("config.data.tokenizer.special", role, SPECIALS, what="role")
  return _Recipe(tuple(special), sentinels)


class _Recipe:
  needs: Literal["nothing"] = "nothing"

  def __init__(self, special: tuple[str, ...], sentinels: int):
    self._special, self._sentinels = special, sentinels
    self.key = digest("bytes", special, sentinels)

  def train(self, texts: Iterable[str]) -> "ByteTokenizer":
    return ByteTokenizer(self._special, self._sentinels)


class ByteTokenizer(Tokenizer):
  """See the file's first paragraph."""

  kind = "bytes"

  def __init__(self, roles: Sequence[str], sentinels: int = 0):
    self.special = place_specials(roles, 256)
    self.vocab_size = 256 + len(self.special) + sentinels
    self.sentinels = place_sentinels(sentinels, self.vocab_size)

  def encode(self, text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    return without(ids, self.reserved, self.vocab_size).astype(np.uint8).tobytes().decode(errors="replace")

  def files(self) -> dict[str, bytes]:
    saved = {"special": list(self.special)} | ({"sentinels": len(self.sentinels)} if self.sentinels else {})
    return {"bytes.json": json.dumps(saved).encode()}

  @functools.cached_property
  def token_bytes(self) -> np.ndarray:
    return (np.arange(self.vocab_size) < 256).astype(np.int32)

  @functools.cached_property
  def word_edges(self) -> np.ndarray:
    """Bytes above 127 are parts of characters that a word goes on through."""
    return edges_of([chr(b) if b < 128 else "\ufffd" for b in range(256)] + [""] * (self.vocab_size - 256))


def restore(files: dict[str, bytes]) -> ByteTokenizer:
  """The tokenizer from its saved files."""
  saved = json.loads(files["bytes.json"])
  return ByteTokenizer(saved["special"], saved.get("sentinels", 0))
