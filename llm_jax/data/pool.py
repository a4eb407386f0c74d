"""A finite pool of generated examples. Fresh examples have no ids; those of a pool do, so that they can be scored by
their structure once (`python -m llm_jax.score --scorer=structure`) and admitted from easy to hard.

The example of an id is a pure function of the id: any seed of a run and any length see the same pool, and scores hold
for all of them.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.types import Batch, Plan
from llm_jax.data.admission import Order, admitted
from llm_jax.data.permutation import in_laps

DOMAIN = "pool"


@dataclasses.dataclass(frozen=True)
class Pool:
  """A DataSource of `count` examples, each of them exactly once per epoch.

  draw: (ids (R,) int64, plan) -> rows, each a function of its id; structure: rows -> (R,) how much there is to each,
  larger = harder. Both must pickle. content: names the examples.
  """

  count: int
  draw: Callable[[np.ndarray, Plan], Batch]
  structure: Callable[[Batch], np.ndarray]
  seed: int
  content: str
  fields: Mapping[str, str]
  order: Order | None = None
  domains: tuple[str, ...] = (DOMAIN,)
  boundaries: bool = False

  @property
  def fingerprint(self) -> str:
    return self.content

  def serving(self, *, order: Order | None = None, label_domains: bool = False) -> "Pool":
    """The same pool, ranked. label_domains: there is only one.

    Raises:
      ConfigError: the domain of each row is asked for.
    """
    if label_domains:
      raise ConfigError("config.curriculum", "chooses among domains, and a pool is one", accepted="config.data.pool=0")
    return dataclasses.replace(self, order=order)

  def windows(self, length: int) -> dict[str, int]:
    """{domain: rows}, whatever their length."""
    return {DOMAIN: self.count}

  def window_rows(self, domain: str, windows: np.ndarray, length: int) -> Batch:
    """The rows of these ids, for scoring, and their 'structure' (R,)."""
    rows = self.draw(windows, Plan(len(windows), length))
    return rows | {"structure": self.structure(rows)}

  def ids(self, step: int, plan: Plan, rows: slice | None = None) -> np.ndarray:
    """(R,) int64: which examples the rows of a step are.

    Raises:
      DataError: the pool is smaller than a batch.
    """
    if self.count < plan.batch:
      raise DataError(f"config.data.pool={self.count} is smaller than one batch of {plan.batch}")
    example = step * plan.batch + np.arange(plan.batch, dtype=np.int64)[rows or slice(None)]
    length = plan.window or plan.length
    size = admitted(self.order, DOMAIN, length, self.count, plan.admit)
    place, _ = in_laps(example, size, f"{self.seed}/pool")
    return place if self.order is None or plan.admit >= 1 else self.order(DOMAIN, length)[0][place]

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch:
    """Rows `rows` (default all) of the batch of `step`."""
    return self.draw(self.ids(step, plan, rows), plan)


def checked_size(pool: int) -> int:
  """config.data.pool: examples of a pool, 0 for none. Raises ConfigError if it is negative."""
  if pool < 0:
    raise ConfigError("config.data.pool", f"got {pool}", accepted="a number of examples, or 0 for fresh ones for ever")
  return pool
