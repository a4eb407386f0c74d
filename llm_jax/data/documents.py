"""Documents, where they come from, and what happens to rows that are not documents.

A source yields `Document`s in a fixed order and, in the place of a row it cannot read, a `BadRow` with file:line and
reason. `screen` applies the policy: 'fail' stops at the first, 'skip' leaves it out, counts it and reports it. What is
skipped never changes the order of the rest.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Protocol

from llm_jax.core.errors import DataError
from llm_jax.data.fingerprint import bytes_digest, write_atomically

Split = Literal["train", "validation"]


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
  """One text. domain: the part of the mixture it belongs to; where: file:line for messages; group: documents of one
  group always fall on the same side of the split ('' = its own text); split: fixed by the source, or None; difficulty:
  that the source gives it, or None; counts: False for a further text of a row that was counted."""

  text: str
  domain: str
  where: str
  group: str = ""
  split: Split | None = None
  difficulty: float | None = None
  counts: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class BadRow:
  """A row that is not a document: file:line and the reason."""

  where: str
  reason: str


class DocumentSource(Protocol):
  """Reads documents in a fixed order, as often as asked."""

  @property
  def description(self) -> str:
    """One line for the log: what text this is."""

  @property
  def fingerprint(self) -> str:
    """Changes when the text changes."""

  def documents(self) -> Iterator[Document | BadRow]: ...


@dataclasses.dataclass
class Screen:
  """One reading of a source under a bad-data policy.

  policy: 'skip' or 'fail'; max_fraction: skipped rows allowed, as a fraction of all rows; deduplicate: leave out
  documents whose exact text came before; report: file that gets one 'file:line<TAB>reason' line per skipped row.
  """

  policy: str
  max_fraction: float
  deduplicate: bool
  report: pathlib.Path
  kept: int = 0
  duplicates: int = 0
  bad: list[BadRow] = dataclasses.field(default_factory=list)

  def read(self, source: DocumentSource) -> Iterator[Document]:
    """The good documents, in the source's order.

    Raises:
      DataError: a bad row under 'fail'; too many under 'skip'; no document at all.
    """
    seen: set[str] = set()
    for row in source.documents():
      bad = row if isinstance(row, BadRow) else check(row)
      if bad is not None:
        self._refuse(bad)
        continue
      assert isinstance(row, Document)
      if self.deduplicate:
        key = bytes_digest(row.text.encode())
        if key in seen:
          self.duplicates += 1
          continue
        seen.add(key)
      self.kept += row.counts
      yield row
    self._finish(source.description)

  def _refuse(self, bad: BadRow) -> None:
    if self.policy == "fail":
      raise DataError(f"{bad.where}: {bad.reason}\n  on_bad_data='skip' leaves such rows out and reports them")
    self.bad.append(bad)

  def _finish(self, description: str) -> None:
    total = self.kept + self.duplicates + len(self.bad)
    if self.bad:
      write_report(self.report, self.bad)
    if self.bad and len(self.bad) > self.max_fraction * total:
      first = self.bad[0]
      raise DataError(
          f"{len(self.bad)} of {total} rows are bad, more than max_bad_fraction={self.max_fraction:g} allows\n"
          f"  first: {first.where}: {first.reason}\n  all: {self.report}")
    if not self.kept:
      raise DataError(f"no documents in {description}")


def check(document: Document) -> BadRow | None:
  """What is wrong with a document, if anything: it must hold text that can be written as UTF-8."""
  if not document.text:
    return BadRow(document.where, "empty")
  try:
    document.text.encode()
  except UnicodeEncodeError as e:
    return BadRow(document.where, f"not valid Unicode: lone surrogate at character {e.start}")
  return None


def together(texts: Sequence[Document]) -> Sequence[Document | BadRow]:
  """The texts of one row, or what is wrong with the first bad one of them in the place of all."""
  return next(([bad] for bad in map(check, texts) if bad is not None), texts)


def write_report(path: pathlib.Path, rows: Iterable[BadRow]) -> None:
  """One 'file:line<TAB>reason' line per row."""
  write_atomically(path, "".join(f"{r.where}\t{r.reason}\n" for r in rows).encode("utf-8", "replace"))
