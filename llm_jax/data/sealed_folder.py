"""Folders that are whole or not there: written aside, sealed with a manifest of hashes, then renamed into place.

A process that dies half way leaves a hidden temporary folder that nobody reads; a damaged file is noticed by its hash
and the folder is rebuilt. Any number of processes may build the same folder at once: the first to finish wins and the
others use its result, which is the same, because what is built depends on the folder's name only.
"""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator

from absl import logging

from llm_jax.core.errors import DataError
from llm_jax.data.fingerprint import digest, file_digest

SEAL = "seal.json"
HASH_LIMIT = 4 << 30  # above this many bytes only names and sizes are compared at start-up: hashing runs at 0.8 GB/s


def open_or_build(folder: pathlib.Path, build: Callable[[pathlib.Path], None]) -> pathlib.Path:
  """`folder` after making sure that it is whole; `build(temporary)` fills it if it is absent or damaged.

  Raises:
    DataError: the folder cannot be written.
  """
  wrong = problem(folder)
  if wrong == "absent":
    _write(folder, build)
  elif wrong:
    logging.warning("%s is damaged (%s); it is built again", folder, wrong)
    _discard(folder)
    _write(folder, build)
  return folder


def problem(folder: pathlib.Path) -> str | None:
  """What is wrong with a sealed folder in a few words: None (nothing), 'absent', or the damage."""
  if not folder.is_dir():
    return "absent"
  try:
    seal = json.loads((folder / SEAL).read_bytes())
    files = seal["files"]
    if seal["digest"] != digest(files):
      return f"{SEAL} is damaged"
  except (OSError, ValueError, KeyError, TypeError):
    return f"{SEAL} is missing or damaged"
  small = sum(size for size, _ in files.values()) <= HASH_LIMIT
  for name, (size, content) in files.items():
    path = folder / name
    if not path.is_file() or path.stat().st_size != size:
      return f"{name} is missing or has the wrong size"
    if small and file_digest(path) != content:
      return f"{name} has changed"
  return None


def _write(folder: pathlib.Path, build: Callable[[pathlib.Path], None]) -> None:
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(folder) as temporary:
      build(temporary)
      files = {p.name: [p.stat().st_size, file_digest(p)] for p in sorted(temporary.iterdir())}
      (temporary / SEAL).write_text(json.dumps({"files": files, "digest": digest(files)}))
      for path in [*temporary.iterdir(), temporary]:
        _sync(path)
      with contextlib.suppress(OSError):  # another process was first: its folder is as good as ours
        os.rename(temporary, folder)
  except OSError as e:
    raise DataError(f"cannot write {folder}: {e.strerror or e}") from e
  wrong = problem(folder)
  if wrong:
    raise DataError(f"cannot write {folder}: {wrong} after writing")


@contextlib.contextmanager
def _temporary(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """A hidden folder beside `folder`, removed at the end if it was not renamed; also removes those of dead processes."""
  prefix = f".{folder.name}.{os.uname().nodename}-"
  for old in folder.parent.glob(f"{prefix}*"):
    pid = old.name[len(prefix):].split(".")[0]
    if pid.isdigit() and not _alive(int(pid)):
      shutil.rmtree(old, ignore_errors=True)
  temporary = pathlib.Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}.", dir=folder.parent))
  try:
    yield temporary
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _alive(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except OSError:
    return True
  return True


def _discard(folder: pathlib.Path) -> None:
  """Removes a damaged folder; renamed first, so that no reader sees a part of it as the whole."""
  aside = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}.damaged-", dir=folder.parent))
  with contextlib.suppress(OSError):
    os.rename(folder, aside / folder.name)
  shutil.rmtree(aside, ignore_errors=True)


def _sync(path: pathlib.Path) -> None:
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
