"""Teacher-student curriculum: practise where the loss changes fastest, up or down (Matiisen et al. 2017, the window
algorithm): the slope of each domain's last losses by least squares, and domains drawn in proportion to its size."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from llm_jax.core.errors import ConfigError
from llm_jax.curriculum import arms


@dataclasses.dataclass(frozen=True)
class TeacherStudent:
  """State: the last (step, loss) pairs of each arm."""

  window: int
  epsilon: float

  def init(self, count: int) -> dict[str, Any]:
    return {"recent": [[] for _ in range(count)]}

  def policy(self, state: Mapping[str, Any]) -> list[float]:
    """(1 - eps) |slope| / sum + eps / N; even until every domain has come up twice."""
    n = len(state["recent"])
    slopes = [abs(slope(points)) for points in state["recent"]]
    total = sum(slopes)
    if any(len(points) < 2 for points in state["recent"]) or not total > 0 or not math.isfinite(total):
      return [1.0 / n] * n
    return [(1 - self.epsilon) * s / total + self.epsilon / n for s in slopes]

  def observe(self, state: Mapping[str, Any], step: int, seen: arms.Seen) -> dict[str, Any]:
    recent = [list(points) for points in state["recent"]]
    for arm, (loss, _, _) in seen.items():
      recent[arm] = [*recent[arm], [step, loss]][-self.window:]
    return {"recent": recent}


def slope(points: list) -> float:
  """The slope of [(x, y), ...] by least squares; 0 for fewer than two."""
  if len(points) < 2:
    return 0.0
  mean_x = sum(x for x, _ in points) / len(points)
  mean_y = sum(y for _, y in points) / len(points)
  spread = sum((x - mean_x) ** 2 for x, _ in points)
  return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def build(steps: int, batch: int, length: int, *, window: int = 10, epsilon: float = 0.1, draws: int | None = None,
          seed: int = 0) -> arms.Bandit:
  """Domains drawn by how fast their loss changes.

  Args:
    window: losses of a domain that the slope is taken over.
    epsilon: share of the probability that is spread evenly.
    draws: domains drawn per step, in equal parts of the batch; None is 8, or the batch if it is no multiple of 8.
    seed: of the draws.

  Raises:
    ConfigError: a window below 2 or a share out of range.
  """
  if window < 2 or not 0 < epsilon <= 1:
    raise ConfigError("config.curriculum.window", f"window {window}, epsilon {epsilon:g}",
                      accepted="a window from 2, epsilon above 0 and at most 1")
  return arms.Bandit(batch, length, TeacherStudent(window, epsilon), arms.draws_of(draws, batch), seed)
