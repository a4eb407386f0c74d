"""Dropout with its key at the call: no random state lives in a module."""

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
  """Zeroes a fraction `rate` of `x` and scales the rest by 1 / (1 - rate); `x` itself when key is None or rate is 0."""
  if key is None or rate == 0.0:
    return x
  keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
  return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype)).astype(x.dtype)


def check_rate(rate: float, key: str = "config.model.dropout") -> float:
  """`rate` if it can be one.

  Raises:
    ConfigError: not in [0, 1).
  """
  if not 0 <= rate < 1:
    raise ConfigError(key, f"got {rate}", accepted="0 <= dropout < 1")
  return rate


def split(key: jax.Array | None, count: int) -> tuple[jax.Array | None, ...]:
  """`count` keys, or as many None when there is no key."""
  return (None,) * count if key is None else tuple(jax.random.split(key, count))
