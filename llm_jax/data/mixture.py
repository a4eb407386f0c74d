"""Weighted mixtures of domains: which domain example g comes from, and the how-manieth of that domain it is.

Exact and random access: over a period every domain gets its share by largest remainder, and within it no prefix is ever
a whole example off its share. The order is Tijdeman's for the chairman assignment problem (Discrete Mathematics 32,
1980): of the domains that may go next without running ahead, take the one whose deadline comes first.
"""

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from llm_jax.core.errors import ConfigError, unknown_name

MAX_PERIOD = 4096  # weights are met to 1/4096; shorter periods are used where they are exact (0.25 and 0.75: 4)


class Mixture:
  """An interleaving of domains by weight. Make one with `of`."""

  def __init__(self, counts: Sequence[int]):
    """counts: examples of each domain in one period."""
    self.period = sum(counts)
    self.counts = np.asarray(counts, np.int64)
    self._domain = _tijdeman(counts)
    self._rank = np.zeros(self.period, np.int64)  # how many of the same domain came before in the period
    for d, count in enumerate(counts):
      self._rank[self._domain == d] = np.arange(count)

  @staticmethod
  def of(weights: Mapping[str, float], domains: Sequence[str], key: str = "config.data.mixture") -> "Mixture":
    """The mixture of `domains` (in this order) with `weights` (any positive scale; domains left out get none).

    Raises:
      ConfigError: an unknown domain, a negative or non-finite weight, or no positive weight.
    """
    for name, weight in weights.items():
      if name not in domains:
        raise unknown_name(f"{key}.{name}", name, domains, what="domain")
      if not (isinstance(weight, int | float) and math.isfinite(weight) and weight >= 0):
        raise ConfigError(f"{key}.{name}", f"got {weight!r}", accepted="a number >= 0")
    if not sum(weights.values()) > 0:
      raise ConfigError(key, "no domain has a positive weight", accepted=", ".join(domains))
    return _cached(tuple(float(weights.get(d, 0.0)) for d in domains))

  def locate(self, example: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(domain, index within the domain) of each example of the endless stream; example: (n,) int64, n results each."""
    lap, place = np.divmod(example, self.period)
    domain = self._domain[place]
    return domain, lap * self.counts[domain] + self._rank[place]


@functools.lru_cache(maxsize=256)
def _cached(weights: tuple[float, ...]) -> Mixture:
  return Mixture(largest_remainder(weights))


def largest_remainder(weights: Sequence[float], max_period: int = MAX_PERIOD) -> list[int]:
  """Whole numbers in the proportion of `weights`: the shortest period up to `max_period` where that is exact, else
  `max_period` shared out by largest remainder (ties to the first), at least 1 for every positive weight."""
  share = np.asarray(weights, np.float64) / sum(weights)
  periods = np.arange(1, max_period + 1)[:, None]
  exact = np.flatnonzero((np.abs(periods * share - np.round(periods * share)) < 1e-9).all(axis=1))
  if exact.size:
    return np.round(share * (exact[0] + 1)).astype(int).tolist()
  counts = np.floor(share * max_period).astype(int)
  remainder = share * max_period - counts
  for d in np.argsort(-remainder, kind="stable")[: max_period - counts.sum()]:
    counts[d] += 1
  return np.where((share > 0) & (counts == 0), 1, counts).tolist()


def _tijdeman(counts: Sequence[int]) -> np.ndarray:
  """One period of the interleaving, (period,) domain numbers; every prefix is within 1 of its share."""
  period, active = sum(counts), [d for d, c in enumerate(counts) if c]
  slack = 1 - 1 / (2 * len(active) - 2) if len(active) > 1 else 0.0
  taken = [0] * len(counts)
  order = np.zeros(period, np.int64)
  for t in range(period):
    best, deadline = -1, math.inf
    for d in active:
      ahead = counts[d] * (t + 1) / period - taken[d]
      due = (taken[d] + slack) * period / counts[d]  # taking later than this would leave the domain too far behind
      if ahead >= 1 - slack - 1e-12 and due < deadline:
        best, deadline = d, due
    order[t] = best
    taken[best] += 1
  return order
