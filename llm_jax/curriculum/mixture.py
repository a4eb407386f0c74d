"""Mixtures over time: stages of domain weights, jumping or annealed (mid-training, domain-adaptive stages).

Weights are held for a block of steps, so that within a block the shares are exact by largest remainder and every window
of a domain comes before any repeats; a jump takes place exactly at the first step of its stage.
"""

import bisect
import dataclasses
from typing import Any, Literal

import numpy as np

from llm_jax.core.errors import ConfigError, unknown_name
from llm_jax.core.types import Curriculum, Plan
from llm_jax.curriculum.pacing import first_steps, whole_steps

Between = Literal["jump", "linear", "cosine"]


@dataclasses.dataclass(frozen=True)
class Mixture(Curriculum):
  """first: the first step of each stage; weights: {domain: share} of each, over the same domains."""

  batch: int
  length: int
  first: tuple[int, ...]
  weights: tuple[dict[str, float], ...]
  between: Between
  hold: int  # steps that weights stay the same while they are annealed
  sets: tuple[str, ...] = ("mixture",)

  def plan(self, step: int, state: Any) -> Plan:
    return Plan(self.batch, self.length, mixture=self.at(step))

  def at(self, step: int) -> dict[str, float]:
    """Shares at a step; they sum to 1."""
    i = max(bisect.bisect_right(self.first, step) - 1, 0)
    if self.between == "jump" or i + 1 == len(self.first) or step < self.first[0]:
      return self.weights[i]
    start, end = self.first[i], self.first[i + 1]
    share = ((step - start) // self.hold * self.hold) / (end - start)
    share = share if self.between == "linear" else 0.5 - 0.5 * float(np.cos(np.pi * share))
    return {d: (1 - share) * a + share * self.weights[i + 1][d] for d, a in self.weights[i].items()}

  def for_domains(self, domains: tuple[str, ...]) -> "Mixture":
    for name in self.weights[0]:
      if name not in domains:
        raise unknown_name("config.curriculum.stages", name, domains, what="domain")
    return self


def build(steps: int, batch: int, length: int, *, stages: list, between: Between = "jump",
          hold: float = 0.01) -> Mixture:
  """Domain weights by stages.

  Args:
    stages: [(first step or fraction of the run below 1, {domain: weight}), ...]; a domain left out has weight 0.
    between: 'jump' at each stage's first step, or move there 'linear' or 'cosine' from the stage before.
    hold: steps (or fraction of the run up to 1) that weights stay the same while they move.

  Raises:
    ConfigError: stages out of order, or weights that are no shares.
  """
  key = "config.curriculum.stages"
  first = first_steps(stages, steps, key)
  domains = sorted({d for _, weights in stages for d in _checked(weights, key)})
  shares = tuple({d: weights.get(d, 0.0) / sum(weights.values()) for d in domains} for _, weights in stages)
  return Mixture(batch, length, tuple(first), shares, between, whole_steps(hold, steps, "config.curriculum.hold"))


def _checked(weights: Any, key: str) -> dict[str, float]:
  good = isinstance(weights, dict) and weights and all(
      isinstance(w, int | float) and w >= 0 and np.isfinite(w) for w in weights.values()) and sum(weights.values()) > 0
  if not good:
    raise ConfigError(key, f"got the weights {weights!r}", accepted="{domain: weight >= 0}, not all 0")
  return weights
