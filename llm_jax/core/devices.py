"""How many devices the program that is being traced will run on: not always those of this process."""

import contextlib
import contextvars
import os
from collections.abc import Iterator

import jax

_count: contextvars.ContextVar[int | None] = contextvars.ContextVar("devices", default=None)


@contextlib.contextmanager
def made_for(count: int) -> Iterator[None]:
  """What is traced under this is made for so many devices."""
  token = _count.set(count)
  try:
    yield
  finally:
    _count.reset(token)


def count() -> int:
  """Devices that share the work of what is traced here."""
  return _count.get() or jax.device_count()


def threads() -> int:
  """Threads that one CPU device works with."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
