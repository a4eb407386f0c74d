"""Seals: how a finished checkpoint proves, later, that it is still the one that was written.

The array format has no checksum that it verifies: a flipped bit restores as a wrong number without a word. So when a
step has been written completely it gets a manifest (path, size and SHA-256 of every file, and a hash of the manifest
itself), and only then its final name. The names of a checkpoint directory therefore say what a step is:

  300/            sealed: complete when it got this name; verify before use
  300.saving/     being written, or left over from a run that was killed while writing
  300.damaged/    failed verification: set aside, never deleted
  300.trash/      on its way out: a deletion that was interrupted is finished at the next save
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from llm_jax.training.run_directory import replace_text

MANIFEST = "manifest.json"
SAVING, DAMAGED, TRASH = ".saving", ".damaged", ".trash"
FULL_HASH_BELOW = 20_000_000_000  # bytes: 'auto' hashes smaller checkpoints completely (about 1.5 GB/s and core)
ALWAYS_HASHED_BELOW = 1 << 20  # bytes: small files (array metadata, indices) are hashed in every mode

Verify = Literal["auto", "full", "size"]


def steps(directory: pathlib.Path) -> list[int]:
  """The sealed steps, oldest first. Sealed does not mean undamaged: see `verify`."""
  return sorted(int(p.name) for p in _entries(directory) if re.fullmatch(r"\d+", p.name) and p.is_dir())


def with_suffix(directory: pathlib.Path, suffix: str) -> list[pathlib.Path]:
  """The step directories in state `suffix` (SAVING, DAMAGED or TRASH), by name."""
  return sorted(p for p in _entries(directory) if re.fullmatch(rf"\d+{re.escape(suffix)}(-\d+)?", p.name))


def seal(saving: pathlib.Path, final: pathlib.Path, about: dict[str, Any]) -> None:
  """Writes the manifest of everything in `saving` to disk and renames the directory to `final`.

  about: JSON facts that the manifest also holds: step, metrics, arrays, versions, config hash.

  Raises:
    OSError: the disk refused; nothing has the final name then.
  """
  paths = _files(saving)
  files = [{"path": str(p.relative_to(saving)), "size": p.stat().st_size, "sha256": file_hash(p)} for p in paths]
  body = {**about, "files": files}
  _write_manifest(saving, body)
  for folder in {p.parent for p in paths}:
    _sync(folder)
  os.rename(saving, final)
  _sync(final.parent)


def add_metrics(step_directory: pathlib.Path, metrics: Mapping[str, float]) -> None:
  """Adds to the metrics of a sealed step's manifest; the step is sealed, with or without them, at every instant.

  Raises:
    ValueError: the manifest is missing, unreadable or altered. OSError: the disk refused; it stays as it was.
  """
  body = read_manifest(step_directory)
  _write_manifest(step_directory, {**body, "metrics": {**body["metrics"], **metrics}})
  _sync(step_directory)


def read_manifest(step_directory: pathlib.Path) -> dict[str, Any]:
  """The manifest of a sealed step.

  Raises:
    ValueError: missing, unreadable or altered; the message says which.
  """
  try:
    manifest = json.loads((step_directory / MANIFEST).read_text("utf-8"))
    recorded = manifest.pop("sha256")
  except FileNotFoundError:
    raise ValueError(f"{MANIFEST} (missing)") from None
  except (OSError, ValueError, KeyError, AttributeError, TypeError):
    raise ValueError(f"{MANIFEST} (cannot be read)") from None
  if recorded != json_hash(manifest):
    raise ValueError(f"{MANIFEST} (hash differs)")
  return manifest


def verify(step_directory: pathlib.Path, how: Verify = "auto") -> list[str]:
  """What is wrong with a sealed step, e.g. ['state/d/ab12 (hash differs)']; [] when it is good.

  how: 'full' hashes every byte; 'size' compares sizes and hashes only files below 1 MiB; 'auto' is 'full' below 20 GB.
  """
  try:
    manifest = read_manifest(step_directory)
  except ValueError as e:
    return [str(e)]
  if str(manifest.get("step")) != step_directory.name:
    return [f"{MANIFEST} (is of step {manifest.get('step')})"]
  files = manifest["files"]
  full = how == "full" or (how == "auto" and sum(f["size"] for f in files) < FULL_HASH_BELOW)
  check = lambda f: _problem(step_directory, f, full or f["size"] < ALWAYS_HASHED_BELOW)
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the interpreter lock
    return [problem for problem in pool.map(check, files) if problem]


def _write_manifest(directory: pathlib.Path, body: dict[str, Any]) -> None:
  replace_text(directory / MANIFEST, json.dumps({**body, "sha256": json_hash(body)}, indent=1))


def _problem(step_directory: pathlib.Path, file: dict[str, Any], hashed: bool) -> str:
  path = step_directory / file["path"]
  try:
    size = path.stat().st_size
    if size != file["size"]:
      return f"{file['path']} ({size} bytes, was {file['size']})"
    return f"{file['path']} (hash differs)" if hashed and file_hash(path) != file["sha256"] else ""
  except FileNotFoundError:
    return f"{file['path']} (missing)"
  except OSError as e:
    return f"{file['path']} (cannot be read: {e.strerror})"


def set_aside(step_directory: pathlib.Path) -> pathlib.Path:
  """Renames a damaged step so that nothing takes it for a checkpoint; returns the new path."""
  return _rename(step_directory, DAMAGED)


def discard(step_directory: pathlib.Path) -> None:
  """Deletes a step directory; a kill on the way leaves a `.trash`, never half a checkpoint under a good name."""
  shutil.rmtree(_rename(step_directory, TRASH), ignore_errors=True)


def sweep(directory: pathlib.Path) -> None:
  """Deletes what killed runs left: half-written steps and unfinished deletions. Only for the one writer of a run."""
  for path in with_suffix(directory, TRASH):
    shutil.rmtree(path, ignore_errors=True)
  for path in with_suffix(directory, SAVING):
    discard(path)


def file_hash(path: pathlib.Path) -> str:
  """SHA-256 of a file, which is on the disk (not only in the cache) afterwards."""
  with open(path, "rb") as file:
    os.fsync(file.fileno())
    return hashlib.file_digest(file, "sha256").hexdigest()


def json_hash(value: Any) -> str:
  """SHA-256 of a JSON value, independent of the order of its keys."""
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _entries(directory: pathlib.Path) -> Iterable[pathlib.Path]:
  return directory.iterdir() if directory.is_dir() else ()


def _files(directory: pathlib.Path) -> list[pathlib.Path]:
  return sorted(p for p in directory.rglob("*") if p.is_file() and p.name != MANIFEST)


def _rename(path: pathlib.Path, suffix: str) -> pathlib.Path:
  base = path.name.split(".")[0] + suffix
  names = [base] + [f"{base}-{i}" for i in range(2, 1000)]
  target = next(path.parent / name for name in names if not (path.parent / name).exists())
  os.rename(path, target)
  return target


def _sync(directory: pathlib.Path) -> None:
  handle = os.open(directory, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
