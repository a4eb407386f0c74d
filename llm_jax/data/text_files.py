"""Files to documents: .txt .md .py (a file is a document), .jsonl and .jsonl.gz (a line is), .parquet (a row is).

Every reader yields a `BadRow` with file:line for what it cannot read and goes on with the next row or file; none raises
for the content of a file. Empty files and blank lines are not rows at all.
"""

import dataclasses
import gzip
import json
import math
import pathlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, cast

from llm_jax.data.documents import BadRow, Document

Row = Document | BadRow
WHOLE = (".txt", ".md", ".py")
SUFFIXES = (*WHOLE, ".jsonl", ".jsonl.gz", ".parquet")


@dataclasses.dataclass(frozen=True)
class Columns:
  """Names of the columns of .jsonl and .parquet. text: the document; domain: its domain in place of the file's;
  difficulty: a number, for the scorer of that name."""

  text: str = "text"
  domain: str | None = None
  difficulty: str | None = None

  @property
  def names(self) -> list[str]:
    return [name for name in (self.text, self.domain, self.difficulty) if name is not None]


def read_file(path: pathlib.Path, domain: str, columns: Columns, max_bytes: int) -> Iterator[Row]:
  """The rows of one file of a known suffix. max_bytes: longest document accepted, bytes of UTF-8."""
  name = path.name.lower()
  suffix = next(s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s))
  yield from READERS[suffix](path, domain, columns, max_bytes)


def is_readable(path: pathlib.Path) -> bool:
  """Whether the file's suffix is one that `read_file` knows."""
  return path.name.lower().endswith(SUFFIXES)


def _whole_file(path: pathlib.Path, domain: str, columns: Columns, max_bytes: int) -> Iterator[Row]:
  size = path.stat().st_size
  if size > max_bytes:
    yield BadRow(f"{path}:1", f"{size} bytes, more than max_document_bytes={max_bytes}")
  elif size:
    content = path.read_bytes()
    try:
      yield Document(content.decode(), domain, f"{path}:1")
    except UnicodeDecodeError as e:
      line = content.count(b"\n", 0, e.start) + 1
      yield BadRow(f"{path}:{line}", f"not valid UTF-8: byte 0x{content[e.start]:02x}")


def _json_lines(path: pathlib.Path, domain: str, columns: Columns, max_bytes: int) -> Iterator[Row]:
  with path.open("rb") as f:
    yield from _lines(f, path, domain, columns, max_bytes)


def _zipped_json_lines(path: pathlib.Path, domain: str, columns: Columns, max_bytes: int) -> Iterator[Row]:
  with gzip.open(path, "rb") as f:
    yield from _lines(cast(BinaryIO, f), path, domain, columns, max_bytes)


def _lines(file: BinaryIO, path: pathlib.Path, domain: str, columns: Columns, max_bytes: int) -> Iterator[Row]:
  number = 0
  limit = 2 * max_bytes + 4096  # escapes make JSON longer than the text; memory stays bounded on one endless line
  while True:
    number += 1
    try:
      line = file.readline(limit)
      overlong = len(line) == limit and not line.endswith(b"\n")
      while overlong and (rest := file.readline(limit)) and not rest.endswith(b"\n"):
        pass
    except (EOFError, OSError, zlib.error) as e:
      yield BadRow(f"{path}:{number}", f"damaged or truncated gzip ({e})")
      return
    if not line:
      return
    if overlong:
      yield BadRow(f"{path}:{number}", f"line of more than {limit} bytes (max_document_bytes={max_bytes})")
    elif line.strip():
      yield _json_row(line, f"{path}:{number}", domain, columns, max_bytes)


def _json_row(line: bytes, where: str, domain: str, columns: Columns, max_bytes: int) -> Row:
  try:
    value = json.loads(line)
  except UnicodeDecodeError as e:
    return BadRow(where, f"not valid UTF-8: byte 0x{line[e.start]:02x} at {e.start}")
  except (ValueError, RecursionError) as e:
    return BadRow(where, f"not valid JSON ({e})")
  if not isinstance(value, dict):
    return BadRow(where, f"not a JSON object but a {type(value).__name__}")
  for column in columns.names:
    if column not in value:
      return BadRow(where, f"no column {column!r}; there are {', '.join(map(repr, sorted(value)[:8]))}")
  return _row(value, where, domain, columns, max_bytes)


def _parquet(path: pathlib.Path, domain: str, columns: Columns, max_bytes: int) -> Iterator[Row]:
  import pyarrow
  import pyarrow.parquet

  number = 0
  try:
    file = pyarrow.parquet.ParquetFile(path)
    names = file.schema_arrow.names
    for column in columns.names:
      if column not in names:
        yield BadRow(f"{path}:1", f"no column {column!r}; there are {', '.join(map(repr, names[:8]))}")
        return
    for batch in file.iter_batches(batch_size=256, columns=columns.names):
      for values in zip(*(batch.column(name) for name in columns.names)):
        number += 1
        try:
          value = {name: v.as_py() for name, v in zip(columns.names, values)}
        except UnicodeDecodeError:
          yield BadRow(f"{path}:{number}", "not valid UTF-8")
          continue
        yield _row(value, f"{path}:{number}", domain, columns, max_bytes)
  except (pyarrow.ArrowException, OSError) as e:
    yield BadRow(f"{path}:{number + 1}", f"damaged or truncated parquet ({str(e).splitlines()[0]})")


def _row(value: Mapping[str, Any], where: str, domain: str, columns: Columns, max_bytes: int) -> Row:
  text = value[columns.text]
  if not isinstance(text, str):
    return BadRow(where, f"column {columns.text!r} is not text but {type(text).__name__}")
  if len(text) > max_bytes or (4 * len(text) > max_bytes and len(text.encode("utf-8", "replace")) > max_bytes):
    return BadRow(where, f"{len(text)} characters, more than max_document_bytes={max_bytes}")
  if columns.domain is not None:
    domain = str(value[columns.domain])
    if not domain or value[columns.domain] is None:
      return BadRow(where, f"column {columns.domain!r} names no domain")
  difficulty = None if columns.difficulty is None else value[columns.difficulty]
  if columns.difficulty is not None and (isinstance(difficulty, bool) or not isinstance(difficulty, int | float)
                                         or not math.isfinite(difficulty)):
    return BadRow(where, f"column {columns.difficulty!r} is no number but {difficulty!r}")
  return Document(text, domain, where, difficulty=None if difficulty is None else float(difficulty))


READERS: dict[str, Callable[[pathlib.Path, str, Columns, int], Iterator[Row]]] = {
    **dict.fromkeys(WHOLE, _whole_file), ".jsonl": _json_lines, ".jsonl.gz": _zipped_json_lines, ".parquet": _parquet}
