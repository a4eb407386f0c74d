"""Rows with named columns, from .csv, .jsonl (also .jsonl.gz) and .parquet files, each with its file and line.

A row that cannot be read stands in its place as `Unread`, which says why. Blank lines are not rows; hidden files, and
those in hidden folders, are left out.
"""

import collections
import csv
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from llm_jax.core.errors import ConfigError, shorten
from llm_jax.data.documents import BadRow, Split
from llm_jax.data.fingerprint import file_digests
from llm_jax.data.text_files import apart, files_below, json_rows, parquet_rows

Rows = Iterator[tuple[str, dict[str, Any]]]  # (file:line, row)
READING = 2  # which rows a file holds; a new number makes every store of rows anew

csv.field_size_limit(100_000_000)  # characters of a cell; Python's own limit of 131,072 is less than a long document


class Unread(dict[str, Any]):
  """A row that cannot be read: it has no columns, but a reason."""

  def __init__(self, reason: str):
    super().__init__()
    self.reason = reason


def _csv(file: pathlib.Path, header: bool) -> Rows:
  names: list[str] | None = None
  for where, cells in _table(file):
    if isinstance(cells, Unread):
      yield where, cells
      continue
    if names is None:
      names = cells if header else [str(i) for i in range(1, len(cells) + 1)]
      if header:
        continue
    if len(cells) == len(names):
      yield where, dict(zip(names, cells))
    else:
      first = "header" if header else "first row"
      yield where, Unread(f"{len(cells)} cells, where the {first} has {len(names)}")


def _table(file: pathlib.Path) -> Iterator[tuple[str, list[str] | Unread]]:
  """(file:line, the cells) of each row. After one that cannot be read, as where a quote is left open, the line after
  its first is read as the next."""
  ahead: collections.deque[str] = collections.deque()  # lines to be read again
  used: list[str] = []  # those of the row
  number = 1
  with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as f:
    def line() -> str:
      used.append(ahead.popleft() if ahead else f.readline())
      return used[-1]

    reader = csv.reader(iter(line, ""), strict=True)
    while True:
      used.clear()
      where = f"{file}:{number}"
      try:
        cells = next(reader, None)
      except csv.Error as e:
        yield where, Unread(f"not valid CSV ({e})")
        ahead.extendleft(reversed(used[1:]))
        reader = csv.reader(iter(line, ""), strict=True)  # the other may have come to its end
        number += 1
        continue
      if cells is None:
        return
      if "".join(used).strip():
        yield where, cells
      number += len(used)


def _json_lines(file: pathlib.Path, header: bool) -> Rows:
  return _with_reasons(json_rows(file))


def _parquet(file: pathlib.Path, header: bool) -> Rows:
  return _with_reasons(parquet_rows(file, None))


def _with_reasons(rows: Iterable[tuple[str, dict[str, Any] | BadRow]]) -> Rows:
  for where, row in rows:
    yield where, Unread(row.reason) if isinstance(row, BadRow) else row


READERS: dict[str, Callable[[pathlib.Path, bool], Rows]] = {
    ".csv": _csv, ".jsonl": _json_lines, ".jsonl.gz": _json_lines, ".parquet": _parquet}


def read(file: pathlib.Path, header: bool = True) -> Rows:
  """The rows of a file. header: the first line of a .csv names its columns; False: they are '1', '2', ..."""
  return READERS[_kind(file)](file, header)


def files(path: str, key: str, what: str) -> list[pathlib.Path]:
  """The file, or those below a folder.

  Raises:
    ConfigError: there is none. key: of the config that gives the path; what: is missing then.
  """
  if not path:  # which pathlib takes for the folder that we are in
    raise ConfigError(key, "got ''", accepted=f"a file or folder of {what}")
  where = pathlib.Path(path)
  found = [where] if where.is_file() else sorted(
      where / name for name in files_below(where) if _kind(where / name) in READERS)
  if not found or _kind(found[0]) not in READERS:
    raise ConfigError(key, f"no {what} at {path!r}", accepted=", ".join(READERS))
  return found


class SplitFiles:
  """Files of rows to train on, and of held-out ones where these are given.

  description: `what` they are and where they lie; digests: what the rows depend on, [(split or None, file name, digest
  of its content)] and how they are read. A file that lies in both paths is held out alone.

  Raises:
    ConfigError: no files at config.data.path, or at config.data.validation_path, or all of those are held out.
  """

  def __init__(self, what: str, path: str, validation_path: str | None, cache_dir: pathlib.Path):
    training, held_out = files(path, "config.data.path", what), list[pathlib.Path]()
    if validation_path is not None:
      held_out = files(validation_path, "config.data.validation_path", what)
      training = apart(training, held_out, path)
    self._parts: list[tuple[Split | None, pathlib.Path]] = [
        *((None if validation_path is None else "train", file) for file in training),
        *(("validation", file) for file in held_out)]
    self.description = f"{what} of {path}" + (f", held out {validation_path}" if validation_path else "")
    digests = file_digests([file for _, file in self._parts], cache_dir)
    self.digests = [READING, *((part, file.name, digests[file]) for part, file in self._parts)]

  def rows(self, header: bool = True) -> Iterator[tuple[Split | None, str, dict[str, Any]]]:
    """(its split, None if it is not fixed; file:line; the row) of every row."""
    for part, file in self._parts:
      for where, row in read(file, header):
        yield part, where, row


def lacking(row: Mapping[str, Any], names: Iterable[str]) -> str | None:
  """What is wrong with a row that should have a value in each of these columns; None if nothing is."""
  if isinstance(row, Unread):
    return row.reason
  for name in names:
    if name not in row:
      return f"no {name!r}; there are {', '.join(map(repr, sorted(row)[:8])) or 'no fields'}"
    if row[name] is None:
      return f"{name!r} is null"
  return None


def no_text(row: Mapping[str, Any], names: Iterable[str]) -> str | None:
  """What is wrong with a row that should have, in each of these columns, a text or what is written as one: a number,
  true or false; None if nothing is."""
  names = tuple(names)
  return lacking(row, names) or next((f"{name!r} is {shorten(repr(row[name]), 80)}, no text" for name in names
                                      if isinstance(row[name], list | dict | bytes)), None)


def _kind(file: pathlib.Path) -> str:
  name = file.name.lower()
  return next((kind for kind in READERS if name.endswith(kind)), "")
