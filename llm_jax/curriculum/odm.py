"""Online data mixing: a bandit whose reward is the loss itself (Albalak et al. 2023, algorithm 1).

R_i <- .9 R_i + .1 l_i / pi_i for the domains that came up; eps_t = min(1/K, sqrt(ln K / (K t)));
pi = (1 - K eps_t) softmax(eps_{t-1} R) + eps_t.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from llm_jax.core.errors import ConfigError
from llm_jax.curriculum import arms


@dataclasses.dataclass(frozen=True)
class OnlineDataMixing:
  """State: estimated rewards of the arms and updates so far."""

  smoothing: float

  def init(self, count: int) -> dict[str, Any]:
    return {"rewards": [0.0] * count, "updates": 0}

  def policy(self, state: Mapping[str, Any]) -> list[float]:
    """pi after `updates` observations."""
    t, k = state["updates"], len(state["rewards"])
    epsilon, before = exploration(t, k), exploration(t - 1, k)
    return [(1 - k * epsilon) * p + epsilon for p in arms.softmax([before * r for r in state["rewards"]])]

  def observe(self, state: Mapping[str, Any], step: int, seen: arms.Seen) -> dict[str, Any]:
    if not seen:
      return dict(state)
    keep, rewards = self.smoothing, list(state["rewards"])
    for arm, (loss, _, probability) in seen.items():
      rewards[arm] = keep * rewards[arm] + (1 - keep) * loss / probability
    return {"rewards": rewards, "updates": state["updates"] + 1}


def exploration(update: int, count: int) -> float:
  """eps_t of `count` arms; 1 / count at t = 0."""
  return min(1 / count, math.sqrt(math.log(count) / (count * update))) if update > 0 else 1 / count


def build(steps: int, batch: int, length: int, *, smoothing: float = 0.9, draws: int | None = None,
          seed: int = 0) -> arms.Bandit:
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
  return arms.Bandit(batch, length, OnlineDataMixing(smoothing), arms.draws_of(draws, batch), seed)
