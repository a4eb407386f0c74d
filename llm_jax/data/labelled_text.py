"""Texts with labels, from .csv, .jsonl and .parquet with a column for each; or the kinds of text of Python's library.

A label is a domain of the token store, so that splitting, bad rows and caching are those of all text.
"""

import pathlib
import sysconfig
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from llm_jax.core.errors import DataError
from llm_jax.data import tokenizers
from llm_jax.data.corpus import Corpus, DataContext, Rules, prepare
from llm_jax.data.documents import BadRow, Document
from llm_jax.data.fingerprint import digest
from llm_jax.data.labelled_rows import LabelledSource
from llm_jax.data.row_files import SplitFiles, no_text
from llm_jax.data.splitting import SplitMode
from llm_jax.data.stdlib import StandardLibrary

PASSAGE, PASSAGES = 600, 4  # characters of a passage of the embedded texts, and passages of one of them


def build(context: DataContext, *, path: str | None = None, text_columns: tuple[str, ...] = ("text",),
          label_column: str = "label", header: bool = True, validation_path: str | None = None,
          reverse: bool = False, tokenizer: dict | None = None, validation_fraction: float = 0.1,
          split: SplitMode = "documents", bos: bool = False, eod: bool = False,
          on_bad_data: Literal["skip", "fail"] = "skip", max_bad_fraction: float = 0.01) -> Corpus:
  """Labelled texts, one a row.

  Args:
    path: a .csv, .jsonl or .parquet file, or a folder of them; None: passages of Python's standard library, labelled
      by their kind: code, docstring, manual.
    text_columns: columns whose texts are joined by a space.
    label_column: column of the label, text or number.
    header: the first line of a .csv names its columns; False: they are called '1', '2', ...
    validation_path: held-out texts; None holds out `validation_fraction`.
    reverse: the kept text is read from its end (Zhang et al. 2015).
    tokenizer: {'name': plug-in of data/tokenizers, its knobs}; None is sentencepiece with its defaults.
    validation_fraction: part of the texts kept for validation.
    split: 'documents' (by hash), 'tail' (the last of each label), or 'auto'.
    bos: put the tokenizer's begin id before each text, where it has one.
    eod: put the tokenizer's end id after each text, where it has one.
    on_bad_data: 'skip' (and report) or 'fail' at the first row that cannot be read.
    max_bad_fraction: skipped rows allowed, as a fraction of all.

  Raises:
    ConfigError: a path that is not there. DataError: rows that cannot be read, or one label alone.
  """
  source = LibraryKinds() if path is None else LabelledFiles(
      path, validation_path, text_columns, label_column, header, context.cache_dir)
  rules = Rules(tokenizer=tokenizer, validation_fraction=validation_fraction, split=split, bos=bos, eod=eod,
                on_bad_data=on_bad_data, max_bad_fraction=max_bad_fraction)
  corpus = prepare(context, source, rules)
  by_number = lambda name: (len(name) if name.isdigit() else 0, name)
  labels = sorted({s.domain for s in corpus.streams}, key=by_number)
  if len(labels) < 2:
    raise DataError(f"{source.description}: every text has the label {labels[0]!r}")
  pad = 0 if corpus.tokenizer is None else corpus.tokenizer.special.get("pad", 0)
  make = lambda part, once: LabelledSource([s for s in corpus.streams if s.split == part and s.documents], labels,
                                           fingerprint=corpus.fingerprint, seed=context.seed, pad=pad,
                                           reverse=reverse, once=once)
  train: Any = make("train", False)
  about = f"{corpus.description}\nlabels: {', '.join(f'{i} = {name}' for i, name in enumerate(labels))}"
  return Corpus(corpus.tokenizer, train, {"validation": make("validation", True)}, train.fingerprint, about,
                corpus.bad_report)


class LabelledFiles:
  """A DocumentSource over files with columns; a document's domain is its label."""

  def __init__(self, path: str, validation_path: str | None, text_columns: Sequence[str], label_column: str,
               header: bool, cache_dir: pathlib.Path):
    self._files = SplitFiles("labelled texts", path, validation_path, cache_dir)
    self._texts, self._label, self._header = tuple(text_columns), label_column, header
    self.description = self._files.description
    self.fingerprint = digest("labelled", self._texts, label_column, header, self._files.digests)

  def documents(self) -> Iterator[Document | BadRow]:
    for part, where, row in self._files.rows(self._header):
      texts = [c for c in self._texts if row.get(c, "") is not None]  # a text that is null is none
      if (reason := no_text(row, (*texts, self._label))) is not None:
        yield BadRow(where, reason)
        continue
      text = " ".join(str(row[c]) for c in texts)
      yield Document(text, str(row[self._label]), where, split=part)


class LibraryKinds:
  """A DocumentSource over passages of Python's standard library: 'code', 'docstring' and 'manual'."""

  def __init__(self) -> None:
    folder = pathlib.Path(sysconfig.get_path("stdlib"))
    if not any(folder.glob("*.py")):
      raise DataError(f"no sources of the standard library in {folder}: give config.data.path")
    self._library = StandardLibrary(folder, ("prose", "code"))
    self.description = f"passages of {self._library.description}, labelled by kind"
    self.fingerprint = digest("kinds", PASSAGE, PASSAGES, self._library.fingerprint)

  def documents(self) -> Iterator[Document | BadRow]:
    for document in self._library.documents():
      if isinstance(document, BadRow):
        yield document
        continue
      prose = "docstring" if document.where.endswith(":docstrings") else "manual"
      kind = "code" if document.domain == "code" else prose
      passages = [p for p in tokenizers.chunks(document.text, PASSAGE) if p.strip()]
      for i, passage in enumerate(passages[:None if kind == "manual" else PASSAGES]):
        yield Document(passage, kind, f"{document.where}:{i}", group=document.group)
