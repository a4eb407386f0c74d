"""The rewards of a config as one: a plug-in of llm_jax/rewards, or a list of them that is summed by weight. One of
weight 0 is measured only."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.core.reward import Reward
from llm_jax.core.types import Batch, Params, Score

KEY = "config.objective.reward"


@dataclasses.dataclass(frozen=True)
class Sum(Reward):
  """parts: (name, weight, reward); the name is the plug-in's, with a number where one comes twice."""

  parts: tuple[tuple[str, float, Reward], ...]

  @property
  def fields(self) -> tuple[str, ...]:  # type: ignore[override]
    return tuple(dict.fromkeys(f for _, _, part in self.parts for f in part.fields))

  @property
  def models(self) -> tuple[str, ...]:  # type: ignore[override]
    return tuple(m for _, _, part in self.parts for m in part.models)

  @property
  def several(self) -> tuple[str, ...]:
    """The names of the parts where there are two at least: those that are worth a number of their own."""
    return tuple(name for name, _, _ in self.parts) if len(self.parts) > 1 else ()

  def for_tokenizer(self, tokenizer: Any) -> "Sum":
    return self._changed(lambda part: part.for_tokenizer(tokenizer))

  def with_models(self, scores: Sequence[Score]) -> "Sum":
    left = iter(scores)
    return self._changed(lambda part: part.with_models([next(left) for _ in part.models]))

  def given(self, params: Params) -> "Sum":
    return self._changed(lambda part: part.given(params))

  def _changed(self, change: Callable[[Reward], Reward]) -> "Sum":
    return Sum(tuple((name, weight, change(part)) for name, weight, part in self.parts))

  def __call__(self, batch: Batch, tokens_NT: jax.Array, mask_NT: jax.Array) -> jax.Array:
    return self.total(self.apart(batch, tokens_NT, mask_NT))

  def apart(self, batch: Batch, tokens_NT: jax.Array, mask_NT: jax.Array) -> dict[str, jax.Array]:
    """{name: (N,) float32}: each part before its weight."""
    return {name: part(batch, tokens_NT, mask_NT).astype(jnp.float32) for name, _, part in self.parts}

  def total(self, found: Mapping[str, jax.Array]) -> jax.Array:
    """The sum of what `apart` found, by weight."""
    return sum(weight * found[name] for name, weight, _ in self.parts)  # type: ignore[return-value]


def share(*, weight: float = 1.0) -> float:
  """What every reward has beside its own knobs.

  Args:
    weight: factor of the reward; below 0 it is a penalty, at 0 it is measured only.
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
  found: list[tuple[str, float, Reward]] = []
  names: list[str] = []
  for section, key in sections:
    weight, build = plugins.weighed("rewards", section, key)
    names.append(name := section["name"].rpartition(".")[2])
    found.append((f"{name}_{names.count(name)}" if names.count(name) > 1 else name, weight, build()))
  return Sum(tuple(found))
