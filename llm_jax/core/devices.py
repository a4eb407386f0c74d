"""How many devices the program that is being traced will run on: not always those of this process."""

import contextlib
import contextvars
import os

import jax

from llm_jax.core.held import held

_count: contextvars.ContextVar[int | None] = contextvars.ContextVar("devices", default=None)


def made_for(count: int) -> contextlib.AbstractContextManager[int | None]:
  """What is traced under this is made for so many devices."""
  return held(_count, count)


def count() -> int:
  """Devices that share the work of what is traced here."""
  return _count.get() or jax.device_count()


def threads() -> int:
  """Threads that one CPU device works with."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
