"""How many devices the program that is being traced will run on: not always those of this process."""

import contextlib
import contextvars
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
