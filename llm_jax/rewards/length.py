"""Nearness of a completion's length to a wanted one: what a policy can learn without knowing any answer."""

import dataclasses

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.reward import Reward
from llm_jax.core.types import Batch


@dataclasses.dataclass(frozen=True)
class Length(Reward):
  """See `build`."""

  target: int

  def __call__(self, batch: Batch, tokens_NT: jax.Array, mask_NT: jax.Array) -> jax.Array:
    return -jnp.abs(mask_NT.sum(1) - self.target).astype(jnp.float32) / self.target


def build(*, target: int) -> Length:
  """Minus the distance of the length to a target, over the target: 0 at best.

  Args:
    target: wanted tokens of a completion, the one that ends it included.
  """
  if target < 1:
    raise ConfigError("config.objective.reward.target", f"got {target}", accepted="a number of tokens from 1")
  return Length(target)
