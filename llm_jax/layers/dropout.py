"""Dropout with its key at the call: no random state lives in a module."""

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
  """Zeroes a fraction `rate` of `x` and scales the rest by 1 / (1 - rate); `x` itself when key is None or rate is 0."""
  if key is None or rate == 0.0:
    return x
  keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
  return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype)).astype(x.dtype)


def split(key: jax.Array | None, count: int) -> tuple[jax.Array | None, ...]:
  """`count` keys, or as many None when there is no key."""
  return (None,) * count if key is None else tuple(jax.random.split(key, count))
