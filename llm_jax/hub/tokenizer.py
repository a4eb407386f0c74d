"""The tokenizer of a Hugging Face folder: tokenizer.json through the `tokenizers` library, and the files beside it.

It has the interface of the project's own tokenizers (`vocab_size`, `special`, `encode`, `decode`, `save`). The library
is an optional dependency, imported when text is first encoded. No chat template and no code of the folder runs.
"""

import functools
import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_jax.core.errors import CheckpointError, ConfigError
from llm_jax.data.tokenizers import older_files
from llm_jax.data.tokenizers.hub import USUAL

# What belongs to a tokenizer and is carried along when a folder is saved again.
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
         "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "spm.model", "generation_config.json",
         "chat_template.jinja")
ROLES = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")


class HubTokenizer:
  """Text to ids and back, as the folder's tokenizer.json says. `special`: {role: id} for the roles it names."""

  kind = "hub"

  def __init__(self, folder: pathlib.Path):
    self.folder = folder

  @functools.cached_property
  def content(self) -> bytes:
    """The folder's tokenizer.json, or what its older files say in those words."""
    found = older_files.find(self.folder)
    if found is None:
      raise CheckpointError(f"{self.folder} holds no tokenizer")
    return found

  @functools.cached_property
  def _library_tokenizer(self) -> Any:
    try:
      from tokenizers import Tokenizer
    except ImportError:
      raise ConfigError("hub", f"{self.folder} has a tokenizer, which needs the package tokenizers",
                        accepted="pip install 'llm_jax[hub]'") from None
    try:
      tokenizer = Tokenizer.from_str(self.content.decode())
    except ConfigError:
      raise
    except Exception as e:  # the library raises plain Exception
      path = self.folder / "tokenizer.json"
      raise CheckpointError(f"{path if path.is_file() else self.folder}: not readable as a tokenizer "
                            f"({str(e)[:200]})") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer

  @functools.cached_property
  def special(self) -> dict[str, int]:
    """{role: id}, from tokenizer_config.json or special_tokens_map.json, else the ids in config.json."""
    tokens = _read(self.folder / "special_tokens_map.json") | _read(self.folder / "tokenizer_config.json")
    ids = _read(self.folder / "config.json") | _read(self.folder / "generation_config.json")
    found = {}
    for role in ROLES:
      token = tokens.get(f"{role}_token")
      token = token.get("content") if isinstance(token, dict) else token
      token = self._usual(role) if token is None and not (self.folder / "tokenizer.json").is_file() else token
      number = self._library_tokenizer.token_to_id(token) if isinstance(token, str) else ids.get(f"{role}_token_id")
      number = number[0] if isinstance(number, list) and number else number
      if isinstance(number, int):
        found[role] = number
    return found

  def _usual(self, role: str) -> str | None:
    """The usual spelling of a role that the vocabulary has."""
    return next((t for t in USUAL[role] if self._library_tokenizer.token_to_id(t) is not None), None)

  @property
  def vocab_size(self) -> int:
    """One more than the largest id, added tokens included."""
    return max(self._library_tokenizer.get_vocab(with_added_tokens=True).values()) + 1

  @property
  def begin_of_document(self) -> int | None:
    """Id put in front of a document: bos, or None."""
    return self.special.get("bos")

  @property
  def end_of_document(self) -> int | None:
    """Id put behind a document: eos, or None."""
    return self.special.get("eos")

  def encode(self, text: str, pair: str | None = None, *, special: bool = False) -> np.ndarray:
    """(n,) int32 ids; `special`: with what the tokenizer puts around a text or a pair (bos, [CLS] ... [SEP])."""
    return np.asarray(self._library_tokenizer.encode(text, pair or None, add_special_tokens=special).ids, np.int32)

  def decode(self, ids: Sequence[int] | np.ndarray, *, special: bool = False) -> str:
    """The text; `special`: keep special tokens."""
    ids = [int(i) for i in np.asarray(ids).reshape(-1)]
    return self._library_tokenizer.decode(ids, skip_special_tokens=not special)

  def save(self, folder: pathlib.Path) -> None:
    """Copies the tokenizer's files."""
    for name in FILES:
      source, target = self.folder / name, pathlib.Path(folder) / name
      if source.is_file() and source.resolve() != target.resolve():
        shutil.copyfile(source, target)


def find_tokenizer(folder: pathlib.Path) -> HubTokenizer | None:
  """The folder's tokenizer, or None when it has neither a tokenizer.json nor an older vocabulary."""
  there = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "merges.txt", *older_files.UNIGRAM))
  return HubTokenizer(folder) if there else None


def _read(path: pathlib.Path) -> dict[str, Any]:
  """A JSON object that may be absent; a damaged one is an error."""
  if not path.is_file():
    return {}
  try:
    value = json.loads(path.read_text("utf-8"))
  except (OSError, ValueError) as e:
    raise CheckpointError(f"{path}: not readable as JSON ({e})") from None
  return value if isinstance(value, dict) else {}
