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
from llm_jax.data.tokenizers import SPECIALS, Tokenizer, place_specials, without


def build(context: Any, *, special: tuple[str, ...] = ("eod", "bos", "pad", "cls", "sep", "mask")) -> "_Recipe":
  """Bytes: id = byte, then the special ids.

  Args:
    special: roles that get an id above 255, in this order; () for exactly 256 ids.
  """
  for role in special:
    if role not in SPECIALS:
      raise unknown_name("config.data.tokenizer.special", role, SPECIALS, what="role")
  return _Recipe(tuple(special))


class _Recipe:
  needs: Literal["nothing"] = "nothing"

  def __init__(self, special: tuple[str, ...]):
    self._special = special
    self.key = digest("bytes", special)

  def train(self, texts: Iterable[str]) -> "ByteTokenizer":
    return ByteTokenizer(self._special)


class ByteTokenizer(Tokenizer):
  """See the file's first paragraph."""

  kind = "bytes"

  def __init__(self, roles: Sequence[str]):
    self.special = place_specials(roles, 256)
    self.vocab_size = 256 + len(self.special)

  def encode(self, text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    return without(ids, self.special, self.vocab_size).astype(np.uint8).tobytes().decode(errors="replace")

  def files(self) -> dict[str, bytes]:
    return {"bytes.json": json.dumps({"special": list(self.special)}).encode()}

  @functools.cached_property
  def token_bytes(self) -> np.ndarray:
    return (np.arange(self.vocab_size) < 256).astype(np.int32)


def restore(files: dict[str, bytes]) -> ByteTokenizer:
  """The tokenizer from its saved files."""
  return ByteTokenizer(json.loads(files["bytes.json"])["special"])
