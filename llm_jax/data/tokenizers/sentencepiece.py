"""SentencePiece trained on the spot with lossless settings (Kudo and Richardson, EMNLP 2018).

The library's defaults normalise (newlines, tabs and width forms vanish); these settings keep every byte: identity
normalisation, no dummy prefix, byte pieces for what the vocabulary lacks, pieces of white space only (indentation would
cost one token per space otherwise). Special ids are control symbols, which no text can produce.
"""

import functools
import heapq
import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import sentencepiece

from llm_jax.core.errors import ConfigError, DataError
from llm_jax.data.fingerprint import bytes_digest, digest
from llm_jax.data.tokenizers import Tokenizer, chunks, edges_of, place_sentinels, without

LAYOUT = {"unk": 0, "bos": 1, "eos": 2, "pad": 3, "cls": 4, "sep": 5, "mask": 6, "eod": 7}
CHUNK = 2000  # characters per training sentence: with newlines inside, so that a newline becomes a piece
SPACE_MARK = "▁"  # U+2581, what the library writes for a space


def build(context: Any, *, vocab_size: int = 8192, model_type: Literal["bpe", "unigram"] = "bpe",
          train_bytes: int = 4_000_000, character_coverage: float = 0.9995, split_digits: bool = True,
          sentinels: int = 0) -> "_Recipe":
  """SentencePiece, trained on a sample of the training split.

  Args:
    vocab_size: number of ids, with 8 special ids and 256 byte pieces among them.
    model_type: 'bpe' (1 s per MB at most) or 'unigram' (about ten times slower to train).
    train_bytes: size of the training sample; chunks are chosen by their hash, so that it is the same sample every time.
    character_coverage: fraction of the sample's characters that get a piece of their own; the rest are byte pieces.
    split_digits: every digit its own piece.
    sentinels: ids for left-out text (span corruption), the last ones of `vocab_size`.
  """
  least = 8 + 256 + 1 + len(place_sentinels(sentinels, vocab_size))
  if vocab_size < least:
    raise ConfigError("config.data.tokenizer.vocab_size", f"got {vocab_size}", accepted=f"at least {least}")
  if not 0 < character_coverage <= 1:
    raise ConfigError("config.data.tokenizer.character_coverage", f"got {character_coverage:g}",
                      accepted="a fraction above 0, at most 1")
  return _Recipe(vocab_size - sentinels, model_type, train_bytes, character_coverage, split_digits, sentinels)


class _Recipe:
  needs: Literal["train"] = "train"

  def __init__(self, vocab_size: int, model_type: str, train_bytes: int, coverage: float, split_digits: bool,
               sentinels: int):
    self._vocab_size, self._train_bytes, self._sentinels = vocab_size, train_bytes, sentinels
    self._options: dict[str, Any] = {
        "model_type": model_type, "character_coverage": coverage, "split_digits": split_digits}
    self.key = digest("sentencepiece", sentencepiece.__version__, vocab_size, train_bytes, self._options,
                      *([sentinels] if sentinels else []))

  def train(self, texts: Iterable[str]) -> "SentencePieceTokenizer":
    model = io.BytesIO()
    try:
      sentencepiece.SentencePieceTrainer.train(
          sentence_iterator=iter(sample(texts, self._train_bytes)), model_writer=model, vocab_size=self._vocab_size,
          normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False,
          byte_fallback=True, allow_whitespace_only_pieces=True, max_sentence_length=4 * CHUNK,
          unk_id=LAYOUT["unk"], bos_id=LAYOUT["bos"], eos_id=LAYOUT["eos"], pad_id=LAYOUT["pad"],
          control_symbols=[f"<{role}>" for role, i in LAYOUT.items() if i > 3], minloglevel=2, **self._options)
    except (RuntimeError, OSError) as e:
      raise self._untrainable(str(e)) from e
    return SentencePieceTokenizer(model.getvalue(), self._sentinels)

  def _untrainable(self, said: str) -> ConfigError:
    """What the library said, in words of the config: the most or the fewest ids that this text allows."""
    key, got = "config.data.tokenizer.vocab_size", f"got {self._vocab_size + self._sentinels}, "
    if most := re.search(r"too high.*<= (\d+)", said):
      return ConfigError(key, f"{got}more than this text can fill",
                         accepted=f"at most {int(most.group(1)) + self._sentinels}, or more text")
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", said):
      return ConfigError(key, f"{got}fewer than the characters of this text need",
                         accepted=f"at least {int(least.group(1)) + self._sentinels}, or a lower character_coverage")
    return ConfigError(key, f"{got}which SentencePiece cannot train: {said.splitlines()[-1].strip()}",
                       accepted="another size, or more text")


class SentencePieceTokenizer(Tokenizer):
  """A SentencePiece model with this file's layout of special ids."""

  kind = "sentencepiece"

  def __init__(self, model: bytes, sentinels: int = 0):
    self._model = model
    self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    self._pieces = self._processor.get_piece_size()
    self.vocab_size = self._pieces + sentinels
    self.sentinels = place_sentinels(sentinels, self.vocab_size)
    self.special = dict(LAYOUT)
    # The library writes a space as U+2581, so a real U+2581 would come back as a space: it is spelled in byte pieces.
    self._mark = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]

  def encode(self, text: str) -> np.ndarray:
    return self.encode_batch([text])[0]

  def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
    plain = self._processor.encode([t if SPACE_MARK not in t else "" for t in texts], num_threads=-1)
    return [np.asarray(ids if SPACE_MARK not in text else self._encode_marked(text), np.int32)
            for text, ids in zip(texts, plain)]

  def _encode_marked(self, text: str) -> list[int]:
    ids: list[int] = []
    for i, part in enumerate(text.split(SPACE_MARK)):
      ids += (self._mark if i else []) + self._processor.encode(part)
    return ids

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    return self._processor.decode(without(ids, self.reserved, self.vocab_size).tolist())

  def files(self) -> dict[str, bytes]:
    return {"sentencepiece.model": self._model} | (
        {"sentinels.json": json.dumps(len(self.sentinels)).encode()} if self.sentinels else {})

  @functools.cached_property
  def token_bytes(self) -> np.ndarray:
    sp, special = self._processor, set(self.special.values())
    text = [sp.id_to_piece(i).replace(SPACE_MARK, " ") for i in range(self._pieces)]
    return np.array([0 if i in special else 1 if sp.is_byte(i) else len(text[i].encode())
                     for i in range(self._pieces)] + [0] * len(self.sentinels), np.int32)

  @functools.cached_property
  def word_edges(self) -> np.ndarray:
    sp, special = self._processor, set(self.special.values())
    written = [sp.id_to_piece(i).replace(SPACE_MARK, " ") for i in range(self._pieces)]
    byte = lambda piece: chr(int(piece[3:5], 16)) if int(piece[3:5], 16) < 128 else "\ufffd"
    return edges_of(["" if i in special else byte(p) if sp.is_byte(i) else p for i, p in enumerate(written)]
                    + [""] * len(self.sentinels))


def restore(files: dict[str, bytes]) -> SentencePieceTokenizer:
  """The tokenizer from its saved files."""
  try:
    return SentencePieceTokenizer(files["sentencepiece.model"], json.loads(files.get("sentinels.json", b"0")))
  except (RuntimeError, KeyError) as e:
    raise DataError(f"not a SentencePiece model: {e}") from e


def sample(texts: Iterable[str], size: int) -> list[str]:
  """Chunks of the texts, about `size` bytes of UTF-8 in all, the same for the same texts: those of smallest hash."""
  heap: list[tuple[str, int, str]] = []  # largest hash on top: (inverted hash, place, chunk)
  total = place = 0
  for text in texts:
    for chunk in chunks(text, CHUNK):
      rank = bytes_digest(chunk.encode()).translate(_INVERT)
      heapq.heappush(heap, (rank, place, chunk))
      total += len(chunk.encode())
      place += 1
      while total > size and len(heap) > 1:
        total -= len(heapq.heappop(heap)[2].encode())
  return [chunk for _, _, chunk in sorted(heap, key=lambda item: item[1])]


_INVERT = str.maketrans("0123456789abcdef", "fedcba9876543210")
