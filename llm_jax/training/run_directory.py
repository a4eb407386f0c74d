"""The files of a run directory: small JSON documents and JSON Lines that survive a kill at any instant.

A document (config.json, machine.json, ...) is replaced as a whole, so that a reader sees the old one or the new one. A
JSON Lines file (metrics.jsonl, samples.jsonl) grows by one line per append; a kill can tear only its last line, which
readers leave out and the next opening repairs. docs/metrics.md lists the files and what each holds.
"""

import errno
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from llm_jax.core.errors import DataError, LlmJaxError

CONFIG, MACHINE, DATA = "config.json", "machine.json", "data.json"
PARAMETERS, SCHEDULES, STATUS = "parameters.json", "schedules.json", "status.json"
METRICS, SAMPLES, REPORT = "metrics.jsonl", "samples.jsonl", "report.html"
FILES = (CONFIG, MACHINE, DATA, PARAMETERS, SCHEDULES, STATUS, METRICS, SAMPLES, REPORT)


def replace_text(path: str | os.PathLike, text: str) -> None:
  """Writes `text` to `path` so that a kill leaves the old content or the new, never a mixture."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    with open(temporary, "w", encoding="utf-8", newline="") as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write_document(workdir: str | os.PathLike, name: str, value: Any) -> None:
  """Replaces DIR/name by `value` as JSON; numbers that JSON has no word for (NaN, infinity) become strings."""
  replace_text(pathlib.Path(workdir) / name, json.dumps(_finite(value), indent=2, default=str) + "\n")


def read_document(workdir: str | os.PathLike, name: str) -> Any:
  """The content of DIR/name, or None if there is no such file.

  Raises:
    DataError: the file is not JSON, or cannot be read.
  """
  path = pathlib.Path(workdir) / name
  try:
    return json.loads(path.read_text("utf-8"))
  except FileNotFoundError:
    return None
  except ValueError as e:
    raise DataError(f"{path}: not a JSON document ({e})") from None
  except OSError as e:
    raise DataError(f"{path}: cannot be read: {e.strerror}") from None


def _finite(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {str(k): _finite(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(v) for v in value]
  if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
    return str(value)
  return value


class JsonLines:
  """An append-only file of one JSON object per line, each with the `step` that it belongs to.

  Opening it (on the first append) repairs a torn last line: one that is complete but lacks its newline is kept,
  anything else is cut off.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)
    self._file: Any = None

  def append(self, row: Mapping[str, Any]) -> None:
    """Hands one line to the operating system, so that killing this process does not lose it.

    Raises:
      LlmJaxError: the disk refused it (full, read-only); the file can be appended to again once it does not.
    """
    line = (json.dumps(row, allow_nan=False) + "\n").encode("utf-8")
    try:
      if self._file is None:
        self.keep(lambda row: True)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
      if self._file.write(line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as e:
      self.close()  # the next append repairs what is torn
      raise LlmJaxError(f"{self.path}: a line of {len(line)} bytes could not be written: {e.strerror}\n"
                        "  with room for it, the same command resumes from the last checkpoint") from e

  def sync(self) -> None:
    """Waits until the lines are on the disk, so that losing power does not lose them."""
    if self._file is not None:
      os.fsync(self._file.fileno())

  def close(self) -> None:
    if self._file is not None:
      self._file.close()
      self._file = None

  def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> int:
    """Drops the rows that are not `wanted`, and a torn tail, in one atomic replacement; returns how many rows went.

    Raises:
      DataError: a damaged line in the middle of the file.
    """
    self.close()
    self.path.parent.mkdir(parents=True, exist_ok=True)
    lines, whole = _lines(self.path)
    kept = [line for line, row in lines if wanted(row)]
    if len(kept) < len(lines) or not whole:
      replace_text(self.path, "".join(line + "\n" for line in kept))
    return len(lines) - len(kept)

  def read(self) -> list[dict[str, Any]]:
    """All complete rows, in the order of the file; a torn tail is left out, a missing file has none.

    Raises:
      DataError: a damaged line in the middle of the file, or it cannot be read.
    """
    return [row for _, row in _lines(self.path)[0]]


def _lines(path: pathlib.Path) -> tuple[list[tuple[str, dict[str, Any]]], bool]:
  """The complete lines of `path` with their rows, and whether the file consists of exactly those."""
  try:
    content = path.read_bytes()
  except FileNotFoundError:
    return [], True
  except OSError as e:
    raise DataError(f"{path}: cannot be read: {e.strerror}") from None
  found: list[tuple[str, dict[str, Any]]] = []
  damaged = None
  for number, raw in enumerate(content.split(b"\n"), start=1):
    if not raw.strip():
      continue
    row = _row(raw)
    if row is None:
      damaged = damaged or number
    elif damaged:
      raise DataError(f"{path}:{damaged}: not a JSON object with a step, and complete lines follow it\n"
                      "  to go on without that line, delete it")
    else:
      found.append((raw.decode("utf-8"), row))
  return found, content == b"".join(line.encode("utf-8") + b"\n" for line, _ in found)


def _row(raw: bytes) -> dict[str, Any] | None:
  try:
    row = json.loads(raw.decode("utf-8"))
  except ValueError:
    return None
  return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
