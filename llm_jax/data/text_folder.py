"""A folder of text: .txt .md .py (a file is a document), .jsonl and .jsonl.gz (a line is), .parquet (a row is).

Files are read in order of their path below the folder. Top-level subfolders are the domains of the mixture, unless a
mapping says otherwise. Hidden files and folders are left out. Links are followed: a file that lies there by several
paths is read once for each, as a copy would be.
"""

import dataclasses
import fnmatch
import pathlib
from collections.abc import Iterator
from typing import Literal

from llm_jax.core.errors import ConfigError, DataError
from llm_jax.data.corpus import Corpus, DataContext, MixtureKnob, Rules, prepare
from llm_jax.data.documents import BadRow, Document, Split
from llm_jax.data.fingerprint import digest, file_digests
from llm_jax.data.packing import Packing
from llm_jax.data.splitting import SplitMode
from llm_jax.data.text_files import SUFFIXES, Columns, apart, files_below, is_readable, read_file

ONE_DOMAIN = "text"


def build(context: DataContext, *, path: str, files: str = "*",
          domains: Literal["folders", "one"] | dict[str, str] = "folders", text_column: str = "text",
          domain_column: str | None = None, difficulty_column: str | None = None,
          validation_path: str | None = None, tokenizer: dict | None = None,
          mixture: MixtureKnob = "proportional", validation_fraction: float = 0.05, split: SplitMode = "auto",
          packing: Packing = "concat", document_boundaries: bool = True, bos: bool = True, eod: bool = True,
          deduplicate: bool = False, on_bad_data: Literal["skip", "fail"] = "skip", max_bad_fraction: float = 0.01,
          max_document_bytes: int = 100_000_000) -> Corpus:
  """A corpus from files.

  Args:
    path: a folder, or one file.
    files: pattern that the path below the folder must match, e.g. 'input.txt' or '*.jsonl.gz'; * crosses folders.
    domains: 'folders' (top-level subfolders), 'one', or {domain: pattern}, first match wins and the rest is left out.
    text_column: column of .jsonl and .parquet that holds the text.
    domain_column: column of .jsonl and .parquet that names each row's domain (a label, a source); `domains` then only
      chooses files.
    difficulty_column: column with a number for each row, for curriculum = dict(scorer='column').
    validation_path: a folder or file for validation; then nothing is split off `path`, and a file that lies in both is
      for validation alone.
    tokenizer: {'name': plug-in of data/tokenizers, its knobs}; None is sentencepiece with its defaults.
    mixture: 'proportional' (every window alike), 'equal', or {domain: weight}.
    validation_fraction: part kept for validation.
    split: 'documents' (by hash), 'tail' (the last part of each domain's text), or 'auto': by documents if enough.
    packing: 'concat' (full rows across documents), 'best_fit' or 'first_fit' (whole documents), 'pad' (one per row),
      'stream' (each row goes on where it ended in the step before: models that carry a state then do).
    document_boundaries: no target across documents and positions restart; False is one plain stream.
    bos: put the tokenizer's begin id before each document, where it has one.
    eod: put the tokenizer's end id after each document, where it has one.
    deduplicate: leave out documents whose exact text came before.
    on_bad_data: 'skip' reports rows that cannot be read and goes on; 'fail' stops at the first.
    max_bad_fraction: part of the rows that may be skipped.
    max_document_bytes: longest document accepted, bytes of UTF-8; longer ones are bad rows.
  """
  rules = Rules(tokenizer=tokenizer, mixture=mixture, validation_fraction=validation_fraction, split=split,
                packing=packing, document_boundaries=document_boundaries, bos=bos, eod=eod, deduplicate=deduplicate,
                on_bad_data=on_bad_data, max_bad_fraction=max_bad_fraction)
  columns = Columns(text_column, domain_column, difficulty_column)
  source = TextFolder(path, files, domains, columns, max_document_bytes, validation_path, context.cache_dir)
  return prepare(context, source, rules)


class TextFolder:
  """A DocumentSource over files. Its fingerprint is of the files' content and of their paths below the folder."""

  def __init__(self, path: str, pattern: str, domains: str | dict, columns: Columns, max_bytes: int,
               validation_path: str | None, cache_dir: pathlib.Path):
    self._domains, self._columns, self._max_bytes = domains, columns, max_bytes
    parts: list[tuple[str, Split | None, str]] = [(path, None, "config.data.path")]
    if validation_path is not None:
      parts = [(path, "train", "config.data.path"), (validation_path, "validation", "config.data.validation_path")]
    self._files: list[tuple[pathlib.Path, str, str, Split | None]] = []
    for root, split, key in parts:
      listed = [(file, name, domain, split) for file, name, domain in _listing(root, pattern, domains, key)]
      if not listed:
        raise DataError(f"no file in {root} matches files={pattern!r} and a domain; readable: {' '.join(SUFFIXES)}")
      self._files += listed
    if validation_path is not None:
      files = {part: [file for file, _, _, split in self._files if split == part] for part in ("train", "validation")}
      kept = {*apart(files["train"], files["validation"], path)}
      self._files = [row for row in self._files if row[-1] == "validation" or row[0] in kept]
    digests = file_digests([f for f, *_ in self._files], cache_dir)
    self.fingerprint = digest("text_folder", 1, columns.text, max_bytes,
                              [(name, domain, split, digests[f]) for f, name, domain, split in self._files],
                              *([columns.domain, columns.difficulty] if len(columns.names) > 1 else []))
    self.description = f"{len(self._files)} files in {path}"

  def documents(self) -> Iterator[Document | BadRow]:
    for file, _, domain, split in self._files:
      for row in read_file(file, domain, self._columns, self._max_bytes):
        if split is not None and isinstance(row, Document):
          row = dataclasses.replace(row, split=split)
        yield row


def _listing(root: str, pattern: str, domains: str | dict, key: str) -> Iterator[tuple[pathlib.Path, str, str]]:
  """(file, path below the root, domain) of the readable files, in order of path; a link that leads nowhere is one."""
  if not root:  # which pathlib takes for the folder that we are in
    raise ConfigError(key, "got ''", accepted="a folder or a file")
  folder = pathlib.Path(root)
  if not folder.exists():
    raise ConfigError(key, f"no such file or folder: {root}")
  if folder.is_file():
    if not is_readable(folder):
      raise ConfigError(key, f"cannot read {folder.name}", accepted=" ".join(SUFFIXES))
    domain = _domain(folder.name, domains)
    if domain is not None:
      yield folder, folder.name, domain
    return
  for name in files_below(folder):
    domain = _domain(name, domains)
    if is_readable(folder / name) and domain is not None and fnmatch.fnmatchcase(name, pattern):
      yield folder / name, name, domain


def _domain(name: str, domains: str | dict) -> str | None:
  """The domain of a path below the folder, or None if no pattern takes it."""
  if isinstance(domains, str):
    return name.split("/")[0] if domains == "folders" and "/" in name else ONE_DOMAIN
  return next((domain for domain, pattern in domains.items() if fnmatch.fnmatchcase(name, pattern)), None)
