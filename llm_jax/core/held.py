"""A context variable that holds a value while a block runs."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def held(variable: ContextVar[T], value: T) -> Iterator[T]:
  """Under this, `variable` is `value`, which it yields; afterwards, whatever happens, what it was before."""
  token = variable.set(value)
  try:
    yield value
  finally:
    variable.reset(token)
