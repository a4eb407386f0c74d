"""Rows with named columns, from .csv, .jsonl (also .jsonl.gz) and .parquet files, each with its file and line."""

import csv
import gzip
import json
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from llm_jax.core.errors import ConfigError
from llm_jax.data.documents import Split
from llm_jax.data.fingerprint import file_digests

Rows = Iterator[tuple[str, dict[str, Any]]]  # (file:line, row); a row that cannot be read has no columns


def _csv(file: pathlib.Path, header: bool) -> Rows:
  with file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
    reader = csv.reader(lines)
    names = next(reader, []) if header else None
    for values in reader:
      columns = names if names is not None else [str(i) for i in range(1, len(values) + 1)]
      yield f"{file}:{reader.line_num}", dict(zip(columns, values))


def _json_lines(file: pathlib.Path, header: bool) -> Rows:
  number = 0
  try:
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
      for number, line in enumerate(lines, 1):
        try:
          row = json.loads(line)
        except ValueError:
          row = None
        yield f"{file}:{number}", row if isinstance(row, dict) else {}
  except (EOFError, gzip.BadGzipFile, zlib.error):  # torn or damaged from here on
    yield f"{file}:{number + 1}", {}


def _parquet(file: pathlib.Path, header: bool) -> Rows:
  import pyarrow.parquet

  number = 0
  for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=256):
    for row in batch.to_pylist():
      number += 1
      yield f"{file}:{number}", row


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
      p for p in where.rglob("*") if _kind(p) in READERS and (p.is_file() or p.is_symlink()))
  if not found or _kind(found[0]) not in READERS:
    raise ConfigError(key, f"no {what} at {path!r}", accepted=", ".join(READERS))
  return found


class SplitFiles:
  """Files of rows to train on, and of held-out ones where these are given.

  description: `what` they are and where they lie; digests: [(split or None, file name, digest of its content)].

  Raises:
    ConfigError: no files at config.data.path, or at config.data.validation_path.
  """

  def __init__(self, what: str, path: str, validation_path: str | None, cache_dir: pathlib.Path):
    self._parts: list[tuple[Split | None, pathlib.Path]] = [
        (None if validation_path is None else "train", file) for file in files(path, "config.data.path", what)]
    if validation_path is not None:
      self._parts += [("validation", file) for file in files(validation_path, "config.data.validation_path", what)]
    self.description = f"{what} of {path}" + (f", held out {validation_path}" if validation_path else "")
    digests = file_digests([file for _, file in self._parts], cache_dir)
    self.digests = [(part, file.name, digests[file]) for part, file in self._parts]

  def rows(self, header: bool = True) -> Iterator[tuple[Split | None, str, dict[str, Any]]]:
    """(its split, None if it is not fixed; file:line; the row) of every row."""
    for part, file in self._parts:
      for where, row in read(file, header):
        yield part, where, row


def lacking(row: Mapping[str, Any], names: Iterable[str]) -> str | None:
  """What is wrong with a row that should have a value in each of these columns; None if nothing is."""
  for name in names:
    if name not in row:
      return f"no {name!r}; there are {', '.join(map(repr, sorted(row)[:8])) or 'no fields'}"
    if row[name] is None:
      return f"{name!r} is null"
  return None


def _kind(file: pathlib.Path) -> str:
  name = file.name.lower()
  return next((kind for kind in READERS if name.endswith(kind)), "")
