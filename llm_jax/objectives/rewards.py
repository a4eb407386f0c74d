"""The rewards of a config as one: a plug-in of llm_jax/rewards, or a list of them that is summed by weight."""

import dataclasses
from typing import Any

import jax

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Reward

KEY = "config.objective.reward"


@dataclasses.dataclass(frozen=True)
class Sum(Reward):
  """parts: (weight, reward)."""

  parts: tuple[tuple[float, Reward], ...]

  @property
  def fields(self) -> tuple[str, ...]:  # type: ignore[override]
    return tuple(dict.fromkeys(f for _, part in self.parts for f in part.fields))

  def for_tokenizer(self, tokenizer: Any) -> "Sum":
    return Sum(tuple((weight, part.for_tokenizer(tokenizer)) for weight, part in self.parts))

  def __call__(self, batch: Batch, tokens_NT: jax.Array, mask_NT: jax.Array) -> jax.Array:
    return sum(weight * part(batch, tokens_NT, mask_NT) for weight, part in self.parts)  # type: ignore[return-value]


def share(*, weight: float = 1.0) -> float:
  """What every reward has beside its own knobs.

  Args:
    weight: factor of the reward; below 0 it is a penalty.
  """
  return weight


def bind(spec: Any) -> Sum:
  """The reward of a resolved section.

  Raises:
    ConfigError: none at all, an unknown one, or knobs that it does not have.
  """
  sections = plugins.listed(spec, KEY)
  if not sections:
    raise ConfigError(KEY, "an empty list", accepted="dict(name='exact'), or a list of such")
  found = [plugins.weighed("rewards", section, key) for section, key in sections]
  return Sum(tuple((weight, build()) for weight, build in found))
