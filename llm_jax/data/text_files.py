"""Files to documents: .txt .md .py (a file is a document), .jsonl and .jsonl.gz (a line is), .parquet (a row is).

Every reader yields a `BadRow` with file:line for what it cannot read and goes on with the next row or file; none raises
for the content of a file. Empty files and blank lines are not rows at all. What any reader of files needs stands here
too: the files below a folder, and the rows of a .jsonl and of a .parquet.
"""

import dataclasses
import gzip
import json
import math
import os
import pathlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, cast

from llm_jax.core.errors import ConfigError, DataError, shorten
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


def files_below(folder: pathlib.Path) -> list[str]:
  """Paths below the folder, in order: of files, and of links that lead nowhere.

  Hidden files and folders are left out. Links to files and to folders are followed, but not into a folder that the link
  lies in; what is reached by several paths is listed under each of them.

  Raises:
    DataError: a folder cannot be read.
  """
  return sorted(_below(str(folder), "", frozenset())) if folder.is_dir() else []


def _below(folder: str, prefix: str, above: frozenset[str]) -> Iterator[str]:
  """`prefix` and the path of each file below the folder. above: real paths of the folders that it lies in."""
  real = os.path.realpath(folder)
  if real in above:
    return
  try:
    names = os.listdir(folder)
  except OSError as e:
    raise DataError(f"{folder}: cannot be read ({e.strerror or e})") from e
  for name in names:
    path = os.path.join(folder, name)
    if name.startswith("."):
      continue
    if os.path.isdir(path):
      yield from _below(path, f"{prefix}{name}/", above | {real})
    elif os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path)):
      yield prefix + name


def apart(training: Sequence[pathlib.Path], held_out: Sequence[pathlib.Path], path: str) -> list[pathlib.Path]:
  """The files to train on that are not also held out, by whatever path. path: config.data.path, for the message.

  Raises:
    ConfigError: none is left.
  """
  kept_out = {os.path.realpath(file) for file in held_out}
  kept = [file for file in training if os.path.realpath(file) not in kept_out]
  if not kept:
    raise ConfigError("config.data.validation_path", f"it holds every file of config.data.path={path!r}: none is left "
                      "to train on", accepted="other files than those to train on, or some of them")
  return kept


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
  for where, row in json_rows(path, max_bytes):
    if isinstance(row, BadRow):
      yield row
    elif missing := [column for column in columns.names if column not in row]:
      yield BadRow(where, f"no column {missing[0]!r}; there are {', '.join(map(repr, sorted(row)[:8]))}")
    else:
      yield _row(row, where, domain, columns, max_bytes)


def json_rows(path: pathlib.Path, max_bytes: int | None = None) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
  """(file:line, the object) of each line of a .jsonl or .jsonl.gz. max_bytes: of the longest document; None: any."""
  for where, line in _lines(path, max_bytes):
    yield where, line if isinstance(line, BadRow) else _json_object(line, where)


def _lines(path: pathlib.Path, max_bytes: int | None) -> Iterator[tuple[str, bytes | BadRow]]:
  """(file:line, the line) of all that are not blank; zipped if the name ends with .gz. Memory stays bounded on one
  endless line, if max_bytes says the longest document."""
  zipped = path.name.lower().endswith(".gz")
  with gzip.open(path, "rb") if zipped else path.open("rb") as f:
    limit = -1 if max_bytes is None else 2 * max_bytes + 4096  # escapes make JSON longer than the text
    file, number = cast(BinaryIO, f), 0
    while True:
      number += 1
      where = f"{path}:{number}"
      try:
        line = file.readline(limit)
        overlong = len(line) == limit and not line.endswith(b"\n")
        while overlong and (rest := file.readline(limit)) and not rest.endswith(b"\n"):
          pass
      except (EOFError, OSError, zlib.error) as e:
        yield where, BadRow(where, f"{'damaged or truncated gzip' if zipped else 'cannot be read'} ({e})")
        return
      if not line:
        return
      if overlong:
        yield where, BadRow(where, f"line of more than {limit} bytes (max_document_bytes={max_bytes})")
      elif line.strip():
        yield where, line


def _json_object(line: bytes, where: str) -> dict[str, Any] | BadRow:
  """The object of a line of JSON."""
  try:
    value = json.loads(line)
  except UnicodeDecodeError as e:
    return BadRow(where, f"not valid UTF-8: byte 0x{line[e.start]:02x} at {e.start}")
  except (ValueError, RecursionError) as e:
    return BadRow(where, f"not valid JSON ({e})")
  return value if isinstance(value, dict) else BadRow(where, f"not a JSON object but a {type(value).__name__}")


def _parquet(path: pathlib.Path, domain: str, columns: Columns, max_bytes: int) -> Iterator[Row]:
  for where, row in parquet_rows(path, columns.names):
    yield row if isinstance(row, BadRow) else _row(row, where, domain, columns, max_bytes)


def parquet_rows(path: pathlib.Path, columns: Sequence[str] | None) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
  """(file:row, {column: value}) of a .parquet. columns: those to read; None: all."""
  import pyarrow
  import pyarrow.parquet

  number = 0
  try:
    file = pyarrow.parquet.ParquetFile(path)
    if (reason := _unlike(file.schema_arrow.names, columns)) is not None:
      yield f"{path}:1", BadRow(f"{path}:1", reason)
      return
    for batch in file.iter_batches(batch_size=256, columns=columns):
      names = batch.schema.names if columns is None else columns
      for values in zip(*map(batch.column, names)):
        number += 1
        where = f"{path}:{number}"
        try:
          row: dict[str, Any] | BadRow = {name: value.as_py() for name, value in zip(names, values)}
        except UnicodeDecodeError:
          row = BadRow(where, "not valid UTF-8")
        except (ValueError, OverflowError) as e:  # a time that Python has no word for
          row = BadRow(where, f"not a value of Python's ({e})")
        yield where, row
  except (pyarrow.ArrowException, OSError) as e:
    where = f"{path}:{number + 1}"
    yield where, BadRow(where, f"damaged or truncated parquet ({(str(e).splitlines() or [type(e).__name__])[0]})")


def _unlike(names: Sequence[str], columns: Sequence[str] | None) -> str | None:
  """What is wrong with the columns of a .parquet that should have each of `columns` once; None: whichever it has."""
  for column in names if columns is None else columns:
    if column not in names:
      return f"no column {column!r}; there are {', '.join(map(repr, names[:8]))}"
    if names.count(column) > 1:
      return f"{names.count(column)} columns of the name {column!r}"
  return None


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
  if columns.difficulty is not None and not _is_number(difficulty):
    return BadRow(where, f"column {columns.difficulty!r} is no number but {shorten(repr(difficulty), 80)}")
  return Document(text, domain, where, difficulty=None if difficulty is None else float(difficulty))


def _is_number(value: Any) -> bool:
  """Whether it is a finite number, not so large that a float cannot hold it."""
  try:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
  except OverflowError:
    return False


READERS: dict[str, Callable[[pathlib.Path, str, Columns, int], Iterator[Row]]] = {
    **dict.fromkeys(WHOLE, _whole_file), ".jsonl": _json_lines, ".jsonl.gz": _json_lines, ".parquet": _parquet}
