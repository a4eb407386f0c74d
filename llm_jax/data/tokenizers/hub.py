"""A tokenizer of a Hugging Face folder, read with the `tokenizers` package (an optional dependency): its
tokenizer.json, or the older files of vocabularies (older_files.py).

Roles are read from `tokenizer_config.json` and `special_tokens_map.json` beside it where they exist, else from the
usual spellings. Nothing is downloaded and no code of the folder runs.
"""

import functools
import json
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from llm_jax.core.errors import ConfigError, DataError
from llm_jax.data.fingerprint import bytes_digest, digest
from llm_jax.data.tokenizers import SPECIALS, Tokenizer, edges_of, older_files, without

USUAL = {
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>"),
    "eos": ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>"),
    "pad": ("<pad>", "[PAD]", "<|finetune_right_pad_id|>"),
    "unk": ("<unk>", "[UNK]"), "cls": ("[CLS]", "<cls>"), "sep": ("[SEP]", "<sep>"), "mask": ("[MASK]", "<mask>"),
}


def build(context: Any, *, path: str, special: dict[str, str] | None = None) -> "_Recipe":
  """A tokenizer from a Hugging Face checkpoint folder.

  Args:
    path: a tokenizer.json file, or a folder that holds one, or vocab.txt, vocab.json and merges.txt, or spiece.model.
    special: {role: token}, e.g. {'eod': '<|endoftext|>'}; added to, and winning over, what the folder says.
  """
  if not path:  # which pathlib takes for the folder that we are in
    raise ConfigError("config.data.tokenizer.path", "got ''", accepted="a tokenizer.json file, or a folder")
  file = pathlib.Path(path)
  folder = file if file.is_dir() else file.parent
  content = older_files.find(folder) if file.is_dir() else file.read_bytes() if file.is_file() else None
  if content is None:
    raise ConfigError("config.data.tokenizer.path", f"no tokenizer.json and no vocabulary at {path}")
  known = _tokens(_parse(content, str(file)))
  roles = _roles_of_folder(folder) | dict(special or {})
  for role, token in roles.items():
    if role in (special or {}) and (role not in SPECIALS or token not in known):
      raise ConfigError(f"config.data.tokenizer.special.{role}", f"got {token!r}",
                        accepted=f"roles {', '.join(SPECIALS)}; tokens of {file}")
  for role, spellings in USUAL.items():
    roles.setdefault(role, next((t for t in spellings if t in known), None))
  return _Recipe(content, {role: known[t] for role, t in sorted(roles.items()) if role in SPECIALS and t in known})


class _Recipe:
  needs: Literal["nothing"] = "nothing"

  def __init__(self, content: bytes, special: dict[str, int]):
    self._content, self._special = content, special
    self.key = digest("hub", bytes_digest(content), special)

  def train(self, texts: Iterable[str]) -> "HubTokenizer":
    return HubTokenizer(self._content, self._special)


class HubTokenizer(Tokenizer):
  """Wraps `tokenizers.Tokenizer`; lossless where that tokenizer is (byte-level BPE is, WordPiece is not)."""

  kind = "hub"

  def __init__(self, content: bytes, special: dict[str, int]):
    self._content, self.special = content, special
    self._tokenizer = older_files.library().Tokenizer.from_str(content.decode())
    pieces = self._tokenizer.get_vocab(with_added_tokens=True)
    self.vocab_size = max(pieces.values()) + 1
    named = {int(m[1]): i for piece, i in pieces.items() if (m := re.fullmatch(r"<extra_id_(\d+)>", piece))}
    self.sentinels = tuple(named[n] for n in sorted(named))
    self._encoder = self._tokenizer
    if isinstance(self._tokenizer.model, older_files.library().models.Unigram):
      self._encoder = older_files.library().Tokenizer.from_str(_unspeakable(content, self.reserved))
    self._encoder.no_truncation()
    self._encoder.no_padding()
    self._encoder.encode_special_tokens = True  # '<|endoftext|>' in a document is text, not an instruction

  def encode(self, text: str) -> np.ndarray:
    return np.asarray(self._encoder.encode(text, add_special_tokens=False).ids, np.int32)

  def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
    return [np.asarray(e.ids, np.int32) for e in self._encoder.encode_batch(list(texts), add_special_tokens=False)]

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    return self._tokenizer.decode(without(ids, self.reserved, self.vocab_size).tolist(), skip_special_tokens=False)

  def files(self) -> dict[str, bytes]:
    return {"tokenizer.json": self._content, "special_ids.json": json.dumps(self.special, sort_keys=True).encode()}

  @functools.cached_property
  def token_bytes(self) -> np.ndarray:
    """Exact for byte-level BPE and for pieces with U+2581 and <0xNN>, but for a space that such a tokenizer puts before
    every text; for lossy tokenizers the piece's own length, where '</w>' is a space."""
    byte_level = '"ByteLevel"' in self._content.decode()
    suffix = json.loads(self._content)["model"].get("end_of_word_suffix") or ""
    special, added = set(self.reserved), set(self._tokenizer.get_added_tokens_decoder())
    lengths = np.zeros(self.vocab_size, np.int32)
    for piece, i in self._tokenizer.get_vocab(with_added_tokens=True).items():
      if i in special:
        continue
      if suffix and i not in added and piece.endswith(suffix):
        piece = piece.removesuffix(suffix) + " "
      if i in added:
        lengths[i] = len(piece.encode())
      elif byte_level:
        lengths[i] = len(piece)  # the byte alphabet of GPT-2: one character per byte
      elif re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
        lengths[i] = 1
      else:
        lengths[i] = len(piece.removeprefix("##").replace("▁", " ").encode())
    return lengths

  @functools.cached_property
  def word_edges(self) -> np.ndarray:
    """Of a WordPiece vocabulary: words start where no '##' is; of one with '</w>': they end there."""
    content, pieces = self._content.decode(), self._tokenizer.get_vocab(with_added_tokens=True)
    kind = json.loads(content)["model"].get("type")
    text = [""] * self.vocab_size
    for piece, i in pieces.items():
      text[i] = "" if i in self.reserved else piece
    if kind == "WordPiece":
      starts = np.array([not piece.startswith("##") for piece in text])
      return np.stack([starts, np.array([piece == "" for piece in text])], axis=1)
    if '"</w>"' in content:
      ends = np.array([piece == "" or piece.endswith("</w>") for piece in text])
      return np.stack([np.array([piece == "" for piece in text]), ends], axis=1)
    if '"ByteLevel"' in content:
      return edges_of([_unprintable(piece) for piece in text])
    return edges_of([piece.replace("▁", " ") for piece in text])


def _unspeakable(content: bytes, reserved: Sequence[int]) -> str:
  """The tokenizer.json of a Unigram model with reserved pieces renamed to what no text holds: the library would find
  '</s>' in a text among the pieces, which SentencePiece itself keeps out. Of other models no merge makes one."""
  spec = json.loads(content)
  vocabulary = spec["model"]["vocab"]
  renamed = {vocabulary[i][0]: f"\ufdd0{i}\ufdd1" for i in reserved if i < len(vocabulary)}  # noncharacters of Unicode
  spec["model"]["vocab"] = [[renamed.get(piece, piece), *score] for piece, *score in vocabulary]
  for token in spec.get("added_tokens", []):
    token["content"] = renamed.get(token["content"], token["content"])
  spec["post_processor"] = None  # what goes around a text is not asked for, and is told by the old names
  return json.dumps(spec)


def _unprintable(piece: str) -> str:
  """The text of a piece in GPT-2's alphabet, where the bytes from 0 to 32 are stand-ins from U+0100 on."""
  return "".join(chr(ord(c) - 256) if 256 <= ord(c) <= 288 else c if ord(c) < 128 else "\ufffd" for c in piece)


def restore(files: dict[str, bytes]) -> HubTokenizer:
  """The tokenizer from its saved files."""
  return HubTokenizer(files["tokenizer.json"], json.loads(files["special_ids.json"]))


def _parse(content: bytes, where: str) -> dict[str, Any]:
  library = older_files.library()
  try:
    library.Tokenizer.from_str(content.decode())
    return json.loads(content)
  except Exception as e:  # the library raises plain Exception for a file that it cannot read
    raise DataError(f"{where}: not a tokenizer.json ({str(e).splitlines()[0]})") from e


def _tokens(spec: dict[str, Any]) -> dict[str, int]:
  """{token: id} of the added tokens and, for maps, of the whole vocabulary."""
  vocab = spec.get("model", {}).get("vocab", {})
  pieces = dict(vocab) if isinstance(vocab, dict) else {row[0]: i for i, row in enumerate(vocab)}
  return pieces | {t["content"]: t["id"] for t in spec.get("added_tokens", [])}


def _roles_of_folder(folder: pathlib.Path) -> dict[str, Any]:
  """{role: token} from the configuration files beside tokenizer.json."""
  roles = {}
  for name in ("special_tokens_map.json", "tokenizer_config.json"):
    spec = older_files.json_object(folder / name)
    for role in SPECIALS:
      token = spec.get(f"{role}_token")
      token = token.get("content") if isinstance(token, dict) else token
      if isinstance(token, str):
        roles[role] = token
  return roles
