"""Stepping aside from hand-written derivatives.

Fast forms of layers (a blocked attention, a weight gradient in another order) come with derivatives of their own, and
those know reverse mode only: `jax.jvp` and `jax.linearize` through them is an error, and a fused kernel may have no
second derivative at all. What needs such derivatives, as meta-learning does, traces the model under `plain_layers()`:
every layer then takes its plain form, which JAX differentiates in any mode to any order. The setting is part of the key
of JAX's tracing caches, so that nothing traced without it is reused under it.
"""

import contextlib

import jax

_plain = jax.make_user_context(default_value=False)


def plain_layers() -> contextlib.AbstractContextManager[None]:
  """While tracing under this, layers take the forms that can be differentiated in any mode to any order."""
  return _plain(True)


def plain() -> bool:
  """Whether the caller is traced under `plain_layers`."""
  return _plain.value
