"""One for a completion that is the known answer and ends there; a part of it for a beginning that is right."""

import dataclasses

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.reward import Reward
from llm_jax.core.types import Batch


@dataclasses.dataclass(frozen=True)
class Exact(Reward):
  """See `build`."""

  partial: float
  fields: tuple[str, ...] = ("answer", "answer_length")

  def __call__(self, batch: Batch, tokens_NT: jax.Array, mask_NT: jax.Array) -> jax.Array:
    """The answer holds the token that ends it: a completion that goes on is wrong, as is one cut short."""
    answer_NA, length_N = batch["answer"], batch["answer_length"]
    width = max(answer_NA.shape[1], tokens_NT.shape[1])
    widen = lambda x: jnp.pad(x, ((0, 0), (0, width - x.shape[1])))
    wanted_NW = jnp.arange(width) < length_N[:, None]
    same_NW = (widen(answer_NA) == widen(tokens_NT)) & widen(mask_NT) & wanted_NW
    right_N = (same_NW.sum(1) == length_N) & (mask_NT.sum(1) == length_N)
    prefix_N = jnp.cumprod(same_NW, 1).sum(1) / jnp.maximum(length_N, 1)
    return jnp.where(right_N, 1.0, self.partial * prefix_N).astype(jnp.float32)


def build(*, partial: float = 0.0) -> Exact:
  """1 for the known answer, else 0.

  Args:
    partial: what a wrong completion gets times the share of the answer that its beginning has right.
  """
  if not 0 <= partial <= 1:
    raise ConfigError("config.objective.reward.partial", f"got {partial:g}", accepted="between 0 and 1")
  return Exact(partial)
