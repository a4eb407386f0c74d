"""Our tokenizers as files that Hugging Face's libraries read: bytes and characters as a tokenizer.json.

A tokenizer that comes from a tokenizer.json gives it back; a SentencePiece model is handed over as `tokenizer.model`,
which transformers reads with the package sentencepiece.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

from llm_jax.core.errors import ConfigError

SENTINEL = "extra_id_"  # T5's names for ids that stand for left-out text


def export(tokenizer: Any, folder: pathlib.Path) -> list[str]:
  """Writes a tokenizer's files for Hugging Face into `folder`; returns their names.

  Args:
    tokenizer: with `kind`, `special` and `files()` as in data/tokenizers, or one that hub.load returned.
    folder: exists.

  Raises:
    ConfigError: a kind that has no such form.
  """
  if not hasattr(tokenizer, "files"):
    tokenizer.save(folder)
    return [p.name for p in folder.glob("tokenizer*")]
  if tokenizer.kind not in FORMS:
    raise ConfigError("tokenizer", f"a tokenizer of kind {tokenizer.kind!r} has no form in Hugging Face's folders",
                      accepted=", ".join(FORMS))
  sentinels = {f"{SENTINEL}{n}": i for n, i in enumerate(tokenizer.sentinels)}
  files = FORMS[tokenizer.kind](tokenizer.files(), tokenizer.special | sentinels)
  for name, content in files.items():
    (folder / name).write_bytes(content)
  return sorted(files)


def _bytes(files: dict[str, bytes], special: dict[str, int]) -> dict[str, bytes]:
  """Byte-level BPE without merges: id = byte, written in GPT-2's alphabet of printable stand-ins."""
  byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
  vocab = {character: i for i, character in enumerate(printable_bytes())}
  return _json(vocab, special, pre_tokenizer=byte_level, decoder=byte_level,
               model={"type": "BPE", "merges": [], "dropout": None, "fuse_unk": False, "byte_fallback": False})


def _characters(files: dict[str, bytes], special: dict[str, int]) -> dict[str, bytes]:
  """One word per character; one that the alphabet lacks is an error there too."""
  alphabet = json.loads(files["characters.json"])["alphabet"]
  each = {"type": "Split", "pattern": {"Regex": "(?m:.)"}, "behavior": "Isolated", "invert": False}
  return _json({c: i for i, c in enumerate(alphabet)}, special, pre_tokenizer=each, decoder={"type": "Fuse"},
               model={"type": "WordLevel", "unk_token": "<unk>"})


def _json(vocab: dict[str, int], special: dict[str, int], *, model: dict[str, Any], **parts: Any) -> dict[str, bytes]:
  names = {role: f"<{role}>" if role.startswith(SENTINEL) else f"<|{role}|>" for role in special}
  plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
  added = [{"id": i, "content": names[role]} | plain for role, i in special.items()]
  spec = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
          "post_processor": None, "model": model | {"vocab": vocab | {names[r]: i for r, i in special.items()}}} | parts
  roles = {("eos" if role == "eod" else role): name for role, name in names.items() if not role.startswith(SENTINEL)}
  settings: dict[str, Any] = {f"{role}_token": name for role, name in roles.items()}
  settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
  return {"tokenizer.json": json.dumps(spec, ensure_ascii=False).encode(),
          "tokenizer_config.json": json.dumps(settings, indent=2).encode()}


def printable_bytes() -> list[str]:
  """GPT-2's stand-in character for each byte: itself where it is printable Latin-1, else from 256 on."""
  printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
  hidden = iter(range(256, 512))
  return [chr(b) if b in printable else chr(next(hidden)) for b in range(256)]


FORMS: dict[str, Callable[[dict[str, bytes], dict[str, int]], dict[str, bytes]]] = {
    "bytes": _bytes,
    "characters": _characters,
    "hub": lambda files, special: {"tokenizer.json": files["tokenizer.json"]},
    "sentencepiece": lambda files, special: {"tokenizer.model": files["sentencepiece.model"]},
}
