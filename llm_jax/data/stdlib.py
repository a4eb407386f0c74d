"""The default corpus: the Python standard library that every machine with Python has. No download, PSF-2.0 licence.

Two domains. `prose`: the language reference topics of `pydoc` and, one document per module, its docstrings of at least
80 characters. `code`: the module sources, without tests, codec tables and pydoc's data. A module's docstrings and its
code fall on the same side of the split. The text depends on the Python version: the fingerprint says which it is. Where
Python has no sources to read, a shipped public-domain text is used and the description says so.
"""

import ast
import functools
import importlib.util
import os
import pathlib
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from typing import Literal

from llm_jax.core.errors import ConfigError
from llm_jax.data.corpus import Corpus, DataContext, MixtureKnob, Rules, prepare
from llm_jax.data.documents import BadRow, Document
from llm_jax.data.fingerprint import bytes_digest, digest
from llm_jax.data.packing import Packing

LEFT_OUT = {"test", "tests", "idle_test", "encodings", "pydoc_data", "site-packages", "dist-packages", "__pycache__"}
SHORTEST_DOCSTRING = 80
FALLBACK = pathlib.Path(__file__).parent / "fallback"


def build(context: DataContext, *, domains: tuple[str, ...] = ("prose", "code"),
          text: Literal["auto", "fallback"] = "auto", tokenizer: dict | None = None, mixture: MixtureKnob = "equal",
          validation_fraction: float = 0.05, packing: Packing = "concat", document_boundaries: bool = True,
          bos: bool = True, eod: bool = True) -> Corpus:
  """Python's standard library as a two-domain corpus.

  Args:
    domains: which of 'prose' and 'code' to read.
    text: 'auto' reads the standard library, or the shipped text where it has no sources; 'fallback' the shipped text.
    tokenizer: {'name': plug-in of data/tokenizers, its knobs}; None is sentencepiece with its defaults.
    mixture: 'equal', 'proportional' (every window alike), or {domain: weight}.
    validation_fraction: part of the modules and topics kept for validation, by hash.
    packing: 'concat' (full rows across documents), 'best_fit' or 'first_fit' (whole documents), 'pad' (one per row),
      'stream' (each row goes on where it ended in the step before: models that carry a state then do).
    document_boundaries: no target across documents and positions restart; False is one plain stream.
    bos: put the tokenizer's begin id before each document, where it has one.
    eod: put the tokenizer's end id after each document, where it has one.
  """
  unknown = [d for d in domains if d not in ("prose", "code")]
  if unknown or not domains:
    raise ConfigError("config.data.domains", f"got {tuple(domains)!r}", accepted="'prose', 'code' or both")
  found = None if text == "fallback" else library(tuple(domains))
  source = FallbackText() if found is None else found
  rules = Rules(tokenizer=tokenizer, mixture=mixture, validation_fraction=validation_fraction, packing=packing,
                split="tail" if found is None else "documents", document_boundaries=document_boundaries, bos=bos,
                eod=eod, deduplicate=True)
  return prepare(context, source, rules)


def library(domains: tuple[str, ...] = ("prose", "code")) -> "StandardLibrary | None":
  """This Python's own library; None where it has no sources."""
  folder = pathlib.Path(sysconfig.get_path("stdlib"))
  return StandardLibrary(folder, domains) if any(folder.glob("*.py")) else None


class StandardLibrary:
  """A DocumentSource over a standard library folder."""

  def __init__(self, folder: pathlib.Path, domains: tuple[str, ...]):
    self._folder, self._domains = folder, domains
    self.description = f"Python {sys.version.split()[0]} standard library, {' and '.join(domains)}"

  @functools.cached_property
  def fingerprint(self) -> str:
    texts = {name: bytes_digest(content) for name, content in self._files.items()}
    return digest("stdlib", 1, self._domains, texts, bytes_digest(repr(self._topics).encode()))

  def documents(self) -> Iterator[Document | BadRow]:
    yield from self._documents

  @functools.cached_property
  def _documents(self) -> list[Document | BadRow]:
    rows: list[Document | BadRow] = []
    if "prose" in self._domains:
      rows += [Document(text.strip() + "\n", "prose", f"pydoc_data.topics:{name}", group=f"topic {name}")
               for name, text in self._topics.items() if text.strip()]
      rows += self._docstrings()
    if "code" in self._domains:
      rows += [Document(text, "code", f"{name}:1", group=name) for name, text in self.texts.items() if text.strip()]
    return rows

  @functools.cached_property
  def _files(self) -> dict[str, bytes]:
    """{path below the folder: content} of the modules, in order of path, without what depends on the machine."""
    names = []
    for folder, folders, files in os.walk(self._folder):
      folders[:] = [f for f in folders if f not in LEFT_OUT and not f.startswith("config-")]
      below = pathlib.Path(folder).relative_to(self._folder)
      names += [(below / f).as_posix() for f in files if f.endswith(".py") and not f.startswith("_sysconfigdata")]
    return {name: (self._folder / name).read_bytes() for name in sorted(names)}

  @functools.cached_property
  def texts(self) -> dict[str, str]:
    """The files that are UTF-8; the library ships a few on purpose that are not."""
    texts = {}
    for name, content in self._files.items():
      try:
        texts[name] = content.decode()
      except UnicodeDecodeError:
        continue
    return texts

  @functools.cached_property
  def _topics(self) -> dict[str, str]:
    if importlib.util.find_spec("pydoc_data") is None:
      return {}
    from pydoc_data.topics import topics

    return dict(sorted(topics.items()))

  def _docstrings(self) -> Iterator[Document]:
    seen: set[str] = set()
    for name, text in self.texts.items():
      fresh = [d for d in dict.fromkeys(docstrings(text)) if len(d) >= SHORTEST_DOCSTRING and d not in seen]
      seen.update(fresh)
      if fresh:
        yield Document("\n\n".join(fresh) + "\n", "prose", f"{name}:docstrings", group=name)


class FallbackText:
  """A DocumentSource over the shipped public-domain text: one document per chapter."""

  fingerprint: str

  def __init__(self) -> None:
    self._files = sorted(FALLBACK.glob("*.txt"))
    self.fingerprint = digest("fallback", {f.name: bytes_digest(f.read_bytes()) for f in self._files})
    self.description = "the shipped public-domain text, in place of the standard library"

  def documents(self) -> Iterator[Document | BadRow]:
    for file in self._files:
      body = "\n".join(line for line in file.read_text("utf-8").splitlines() if not line.startswith("# "))
      for i, text in enumerate(t.strip() for t in body.split("\n\n\n")):
        if text:
          yield Document(text + "\n", "prose", f"{file.name}:{i}")


def docstrings(source: str) -> Iterator[str]:
  """The docstrings of a module's source in reading order; none if it does not parse."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # old escapes in the sources read
      tree = ast.parse(source)
  except (SyntaxError, ValueError):
    return
  yield from _docstrings_of(tree)


def _docstrings_of(node: ast.AST) -> Iterator[str]:
  """Goes through statements only: no definition hides in an expression, and expressions are most of the nodes."""
  if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
    text = ast.get_docstring(node)
    if text:
      yield text.strip()
  for block in ("body", "handlers", "orelse", "finalbody", "cases"):
    for child in getattr(node, block, ()):
      yield from _docstrings_of(child)
