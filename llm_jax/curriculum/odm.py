"""Online data mixing: a bandit whose reward is the loss itself (Albalak et al. 2023, algorithm 1).

R_i <- .9 R_i + .1 l_i / pi_i for the domains that came up; eps_t = min(1/K, sqrt(ln K / (K t)));
pi = (1 - K eps_t) softmax(eps_{t-1} R) + eps_t.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Curriculum, Knobs, Loss, Losses, Plan
from llm_jax.curriculum import arms
from llm_jax.curriculum.weighing import by_domain, weighted


@dataclasses.dataclass(frozen=True)
class OnlineDataMixing(Curriculum):
  """State: estimated rewards of the arms and updates so far."""

  batch: int
  length: int
  smoothing: float
  draws: int
  seed: int
  domains: tuple[str, ...] = ()
  adaptive: bool = True
  sets: tuple[str, ...] = ("mixture", "knobs")
  fields: tuple[str, ...] = ("domain",)

  def for_domains(self, domains: tuple[str, ...]) -> "OnlineDataMixing":
    arms.check(domains, self.batch, self.draws)
    return dataclasses.replace(self, domains=domains)

  def init(self) -> dict[str, Any]:
    return {"rewards": [0.0] * len(self.domains), "updates": 0}

  def exploration(self, update: int) -> float:
    """eps_t; 1 / K at t = 0."""
    k = len(self.domains)
    return min(1 / k, math.sqrt(math.log(k) / (k * update))) if update > 0 else 1 / k

  def policy(self, state: Mapping[str, Any]) -> list[float]:
    """pi after `updates` observations."""
    t, k = state["updates"], len(self.domains)
    epsilon, before = self.exploration(t), self.exploration(t - 1)
    return [(1 - k * epsilon) * p + epsilon for p in arms.softmax([before * r for r in state["rewards"]])]

  def plan(self, step: int, state: Mapping[str, Any]) -> Plan:
    if not self.domains:
      return Plan(self.batch, self.length)
    return arms.plan(self.batch, self.length, self.domains, self.policy(state), self.draws, self.seed, step)

  def weighting(self, losses: Losses, knobs: Knobs) -> Loss:
    return weighted(losses, 1.0, by_domain(losses, self.domains))

  def observe(self, state: Mapping[str, Any], step: int, metrics: Mapping[str, float]) -> dict[str, Any]:
    seen = arms.seen(metrics, self.domains)
    if not seen:
      return dict(state)
    keep, rewards = self.smoothing, list(state["rewards"])
    for arm, (loss, _, probability) in seen.items():
      rewards[arm] = keep * rewards[arm] + (1 - keep) * loss / probability
    return {"rewards": rewards, "updates": state["updates"] + 1}


def build(steps: int, batch: int, length: int, *, smoothing: float = 0.9, draws: int | None = None,
          seed: int = 0) -> OnlineDataMixing:
  """Domains drawn by their recent loss.

  Args:
    smoothing: how much of the old reward estimate stays.
    draws: domains drawn per step, in equal parts of the batch; None is 8, or the batch if it is no multiple of 8.
    seed: of the draws.

  Raises:
    ConfigError: smoothing is not in [0, 1).
  """
  if not 0 <= smoothing < 1:
    raise ConfigError("config.curriculum.smoothing", f"got {smoothing:g}", accepted="0 <= smoothing < 1")
  return OnlineDataMixing(batch, length, smoothing, draws or (8 if batch % 8 == 0 else batch), seed)
