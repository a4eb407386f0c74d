"""Stepping aside from hand-written derivatives.

Fast forms of layers (a blocked attention, a weight gradient in another order) come with derivatives of their own, and
those know reverse mode only: `jax.jvp` and `jax.linearize` through them is an error, and a fused kernel may have no
second derivative at all. What needs such derivatives, as meta-learning does, traces the model under `plain_layers()`:
every layer then takes its plain form, which JAX differentiates in any mode to any order.
"""

import contextlib
import contextvars
from collections.abc import Iterator

_plain: contextvars.ContextVar[bool] = contextvars.ContextVar("plain_layers", default=False)


@contextlib.contextmanager
def plain_layers() -> Iterator[None]:
  """While tracing under this, layers take the forms that can be differentiated in any mode to any order."""
  token = _plain.set(True)
  try:
    yield
  finally:
    _plain.reset(token)


def plain() -> bool:
  """Whether the caller is traced under `plain_layers`."""
  return _plain.get()
