"""What a SentencePiece model file says, read without its library: a protocol buffer of pieces, trainer and normaliser.

Field numbers are those of sentencepiece_model.proto: ModelProto {1: pieces, 2: trainer_spec, 3: normalizer_spec};
SentencePiece {1: piece, 2: score}; TrainerSpec {3: model_type, 35: byte_fallback, 40: unk_id}; NormalizerSpec
{2: precompiled_charsmap}.
"""

import dataclasses
import struct
from collections.abc import Iterator
from typing import Any

UNIGRAM = 1  # TrainerSpec.ModelType


@dataclasses.dataclass(frozen=True)
class SentencePieceModel:
  """pieces: (text, log-probability) in the order of their ids; unknown: id of the unknown piece; unigram: the kind;
  charsmap: the compiled normalisation, b'' for none."""

  pieces: tuple[tuple[str, float], ...]
  unknown: int
  unigram: bool
  byte_fallback: bool
  charsmap: bytes

  @staticmethod
  def parse(content: bytes) -> "SentencePieceModel":
    """Raises ValueError if the bytes are no such model."""
    pieces: list[tuple[str, float]] = []
    trainer: dict[int, Any] = {}
    charsmap = b""
    for number, value in _fields(content):
      if number == 1:
        piece = dict(_fields(value))
        pieces.append((piece[1].decode(), struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0))
      elif number == 2:
        trainer = dict(_fields(value))
      elif number == 3:
        charsmap = dict(_fields(value)).get(2, b"")
    if not pieces:
      raise ValueError("no pieces in it")
    return SentencePieceModel(tuple(pieces), trainer.get(40, 0), trainer.get(3, UNIGRAM) == UNIGRAM,
                              bool(trainer.get(35, 0)), charsmap)

  def normalizers(self, library: Any) -> list:
    """The model's normalisation in the words of the package `tokenizers`."""
    return [library.normalizers.Precompiled(self.charsmap)] if self.charsmap else []


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
  """(number, value) of each field: an int, or bytes of 4, 8 or a stated length."""
  at = 0
  while at < len(content):
    tag, at = _varint(content, at)
    kind = tag & 7
    if kind == 0:
      value, at = _varint(content, at)
      yield tag >> 3, value
      continue
    if kind not in (1, 2, 5):
      raise ValueError(f"field of kind {kind} at byte {at}")
    size = {1: 8, 5: 4}.get(kind)
    if size is None:
      size, at = _varint(content, at)
    if at + size > len(content):
      raise ValueError(f"cut off at byte {at}")
    yield tag >> 3, content[at:at + size]
    at += size


def _varint(content: bytes, at: int) -> tuple[int, int]:
  """The number that starts at byte `at`, seven bits to a byte, and the place behind it."""
  value = shift = 0
  while at < len(content):
    byte = content[at]
    value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
    if byte < 128:
      return value, at
  raise ValueError("cut off in a number")
