"""Fingerprints: short names for data that change when the data change, and for no other reason.

They depend on content only, never on the working directory, the time zone, file times or Python's hash seed, so that
the same data have the same fingerprint on another machine.
"""

import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable
from typing import Any

from llm_jax.core.errors import DataError


def digest(*parts: Any) -> str:
  """32 hexadecimal digits for any JSON-like values; dicts count by content, not by order."""
  text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
  return hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest()


def bytes_digest(content: bytes) -> str:
  """32 hexadecimal digits for some bytes."""
  return hashlib.blake2b(content, digest_size=16).hexdigest()


def file_digest(path: pathlib.Path) -> str:
  """32 hexadecimal digits for a file's content; reads it in blocks (about 0.8 GB/s)."""
  with path.open("rb") as f:
    return hashlib.file_digest(f, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def file_digests(paths: Iterable[pathlib.Path], cache_dir: pathlib.Path) -> dict[pathlib.Path, str]:
  """`file_digest` of each path; a file whose size and time are as at the last call is not read again.

  The times only decide whether to read; they are no part of the digest.

  Raises:
    DataError: a file cannot be read.
  """
  memory = cache_dir / "file_digests.json"
  known = _read_json(memory)
  found, fresh = {}, False
  for path in paths:
    try:
      stat = path.stat()
      key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
      if not isinstance(known.get(key), str):
        known[key], fresh = file_digest(path), True
    except OSError as e:
      link = f"; it is a link to {os.readlink(path)}" if path.is_symlink() else ""
      raise DataError(f"{path}: cannot be read ({e.strerror or e}{link})") from e
    found[path] = known[key]
  if fresh:
    write_atomically(memory, json.dumps(known, sort_keys=True, indent=0).encode())
  return found


def write_atomically(path: pathlib.Path, content: bytes) -> None:
  """Writes a file so that a reader sees the old content or the new, never a part.

  Raises:
    DataError: it cannot be written.
  """
  temporary = None
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(handle, "wb") as f:
      f.write(content)
      f.flush()
      os.fsync(f.fileno())
    os.replace(temporary, path)
    temporary = None
  except OSError as e:
    raise DataError(f"cannot write {path} ({e.strerror or e})") from e
  finally:
    if temporary is not None:
      pathlib.Path(temporary).unlink(missing_ok=True)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  """A JSON object, or {} where the file is absent or damaged: it is a memory, not a record."""
  try:
    value = json.loads(path.read_bytes())
  except (OSError, ValueError):
    return {}
  return value if isinstance(value, dict) else {}
