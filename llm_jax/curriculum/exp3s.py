"""EXP3.S over domains: a bandit that follows learning progress (Graves et al. 2017, sections 2.1 and 3).

Reward: how far a domain's loss has fallen since it last came up, per step between, mapped to [-1, 1] by the running
20 % and 80 % quantiles (section 2.2). Graves measures progress by a second pass over the same batch; here
nothing is computed twice.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.curriculum import arms

MEMORY = 256  # raw rewards that the quantiles are taken over


@dataclasses.dataclass(frozen=True)
class Exp3S:
  """State: log weights of the arms, updates so far, last loss and step of each arm, recent raw rewards."""

  rate: float
  epsilon: float

  def init(self, count: int) -> dict[str, Any]:
    return {"weights": [0.0] * count, "updates": 0, "last": [None] * count, "rewards": []}

  def policy(self, state: Mapping[str, Any]) -> list[float]:
    """pi = (1 - eps) softmax(w) + eps / N, equation 5."""
    n = len(state["weights"])
    return [(1 - self.epsilon) * p + self.epsilon / n for p in arms.softmax(state["weights"])]

  def observe(self, state: Mapping[str, Any], step: int, seen: arms.Seen) -> dict[str, Any]:
    last, raw = list(state["last"]), {}
    for arm, (loss, _, _) in seen.items():
      if last[arm] is not None:
        raw[arm] = (last[arm][0] - loss) / max(step - last[arm][1], 1)
      last[arm] = [loss, step]
    rewards = [*state["rewards"], *raw.values()][-MEMORY:]
    state = {**state, "last": last, "rewards": rewards}
    return self.update(state, {a: self._scaled(r, rewards) * seen[a][1] / seen[a][2] for a, r in raw.items()})

  def _scaled(self, reward: float, rewards: list[float]) -> float:
    low, high = np.quantile(rewards, [0.2, 0.8])
    return float(np.clip(2 * (reward - low) / (high - low) - 1, -1, 1)) if high > low else 0.0

  def update(self, state: dict[str, Any], estimate: Mapping[int, float]) -> dict[str, Any]:
    """Equation 7 with the importance-weighted rewards `estimate`."""
    if not estimate:
      return state
    updates = state["updates"] + 1
    n, share = len(state["weights"]), 1.0 / (updates + 1)
    moved = [w + self.rate * estimate.get(i, 0.0) for i, w in enumerate(state["weights"])]
    top = max(moved)
    raised = [math.exp(m - top) for m in moved]
    mixed = [(1 - share) * r + share / (n - 1) * (sum(raised) - r) for r in raised]
    return {**state, "updates": updates, "weights": [math.log(max(m, 1e-300)) for m in mixed]}


def build(steps: int, batch: int, length: int, *, rate: float = 1e-3, epsilon: float = 0.05, draws: int = 1,
          seed: int = 0) -> arms.Bandit:
  """A bandit over the data's domains.

  Args:
    rate: step size eta of the log weights.
    epsilon: share of the probability that is spread evenly, so that every domain keeps coming up.
    draws: domains drawn per step, in equal parts of the batch; 1 is one domain per batch, as published.
    seed: of the draws.

  Raises:
    ConfigError: a rate or share out of range.
  """
  if not rate > 0 or not 0 < epsilon <= 1:
    raise ConfigError("config.curriculum.epsilon", f"rate {rate:g}, epsilon {epsilon:g}",
                      accepted="a rate above 0, epsilon above 0 and at most 1")
  return arms.Bandit(batch, length, Exp3S(rate, epsilon), draws, seed)
