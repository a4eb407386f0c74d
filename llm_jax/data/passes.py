"""Which examples a step serves, where each is a row of its own: training goes through all of them once per epoch in an
order keyed by seed and epoch, evaluation once in a fixed order."""

import dataclasses

import numpy as np

from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.types import Plan
from llm_jax.data.permutation import in_laps, permute


@dataclasses.dataclass(frozen=True)
class Passes:
  """total: examples; what: one word for them; once: an evaluation set, whose steps are one pass."""

  total: int
  seed: int
  what: str
  once: bool = False

  def batches(self, batch: int) -> int:
    """Steps in a pass over all examples."""
    return -(-self.total // batch)

  def places(self, step: int, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """(number of the example (B,), whether the row counts (B,) bool) of a whole batch.

    Raises:
      ConfigError: a plan that picks among the examples. DataError: fewer examples than rows. IndexError: past the pass.
    """
    if plan.admit < 1 or plan.mixture is not None or plan.window is not None:
      raise ConfigError("config.curriculum", f"{self.what} texts are served as they are, each once per epoch",
                        accepted="a curriculum that leaves the data alone")
    index = step * plan.batch + np.arange(plan.batch, dtype=np.int64)
    if self.once:
      if step >= self.batches(plan.batch):
        raise IndexError(f"batch {step} of a pass of {self.batches(plan.batch)}")
      return permute(np.minimum(index, self.total - 1), self.total, f"{self.what} evaluation"), index < self.total
    if self.total < plan.batch:
      raise DataError(f"{self.total} {self.what} texts, fewer than one batch of {plan.batch}\n"
                      "  lower config.train.batch_size, or give more data")
    return in_laps(index, self.total, f"{self.seed}/{self.what}")[0], np.ones(len(index), bool)
