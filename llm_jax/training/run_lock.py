"""One run per workdir: a second one would interleave metrics and delete the first one's checkpoints.

An flock belongs to the open file, so the operating system frees it however the process ends (kill -9 too); the file's
content only says who holds it.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import time
from typing import Any

import jax

from llm_jax.core.errors import ConfigError

NAME = "run.lock"


class RunLock:
  """Holds `workdir` for this run: `with RunLock(workdir): ...`. In a run of several processes, process 0 holds it.

  Raises:
    ConfigError: another living process holds it (named by pid and host), or the workdir cannot be written.
  """

  def __init__(self, workdir: str | os.PathLike):
    self.path = pathlib.Path(workdir) / NAME
    self._handle: int | None = None
    self._new: list[pathlib.Path] = []  # what was not there before: the file, then its folders

  def acquire(self) -> "RunLock":
    if jax.process_index() != 0:
      return self
    try:
      self._new = [p for p in (self.path, *self.path.parents) if not p.exists()]
      self.path.parent.mkdir(parents=True, exist_ok=True)
      handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
      raise ConfigError("--workdir", f"{self.path.parent} cannot be written: {e.strerror}",
                        accepted="a directory on a file system with room, writable by this user") from None
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      holder = _holder(handle)
      os.close(handle)
      raise ConfigError("--workdir", f"{self.path.parent} is in use by another run: {holder}",
                        accepted="another --workdir, or wait until that run ends") from None
    if not self._is_there(handle):  # a start that was refused has taken its file along
      os.close(handle)
      return self.acquire()
    os.register_at_fork(after_in_child=lambda: self._forget(handle))  # a forked data worker must not outlive us with it
    about = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.ftruncate(handle, 0)
    os.pwrite(handle, (json.dumps(about) + "\n").encode(), 0)
    self._handle = handle
    return self

  def withdraw(self) -> None:
    """Removes what `acquire` made, as long as nothing else lies there: a start that is refused leaves no trace."""
    for path in self._new:
      with contextlib.suppress(OSError):
        path.unlink() if path == self.path else path.rmdir()

  def release(self) -> None:
    if self._handle is not None:
      os.ftruncate(self._handle, 0)
      os.close(self._handle)
      self._handle = None

  def __enter__(self) -> "RunLock":
    return self.acquire()

  def __exit__(self, *_: Any) -> None:
    self.release()

  def _is_there(self, handle: int) -> bool:
    """Is the locked file still the one of this name?"""
    try:
      return os.path.samestat(os.fstat(handle), os.stat(self.path))
    except FileNotFoundError:
      return False

  def _forget(self, handle: int) -> None:
    if self._handle == handle:
      os.close(handle)
      self._handle = None


def _holder(handle: int) -> str:
  try:
    about = json.loads(os.pread(handle, 4096, 0))
    return f"pid {about['pid']} on {about['host']}, since {about['since']}"
  except (OSError, ValueError, KeyError):
    return "its process has not written its name yet"
