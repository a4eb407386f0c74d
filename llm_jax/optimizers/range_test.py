"""Reading a learning-rate range test (Smith 2017): train with decay='range_test', then ask which rate to use.

The loss is smoothed over steps, cut where it diverges, and read two ways that practice has settled on: the rate at
which it falls fastest per decade, and a tenth of the rate at which it is lowest. The smaller of the two is suggested,
because a range test is short and flatters large rates.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable

import numpy as np

from llm_jax.core.errors import ConfigError

FEWEST = 10


@dataclasses.dataclass(frozen=True)
class RangeTest:
  """suggested: min(steepest, minimum / 10); steepest: rate of the fastest fall; minimum: rate of the lowest smoothed
  loss; diverged: rate at which the loss passed the limit, None if it never did; rates, losses: the smoothed curve."""

  suggested: float
  steepest: float
  minimum: float
  diverged: float | None
  rates: np.ndarray
  losses: np.ndarray


def analyse(records: Iterable[tuple[float, float]], smoothing: float = 0.9, limit: float = 2.0,
            key: str = "range test") -> RangeTest:
  """What the (learning rate, loss) pairs of a range test say, in the order in which they were trained.

  Args:
    records: pairs with rising rates.
    smoothing: decay of the bias-corrected running mean of the loss.
    limit: the curve ends where the smoothed loss is `limit` times its lowest value so far, or not finite.
    key: how errors name the source.

  Raises:
    ConfigError: too few points before the loss diverges, rates that do not rise, or a loss that never falls.
  """
  pairs = [(float(rate), float(loss)) for rate, loss in records]
  if any(b[0] <= a[0] for a, b in itertools.pairwise(pairs)) or any(rate <= 0 for rate, _ in pairs):
    raise ConfigError(key, "learning rates must be positive and rise", accepted="a run with decay='range_test'")
  rates, losses, diverged = _smooth(pairs, smoothing, limit)
  if len(rates) < FEWEST:
    raise ConfigError(key, f"{len(rates)} usable points of {len(pairs)}", accepted=f"at least {FEWEST}")
  slopes = np.gradient(losses, np.log10(rates))
  lowest = int(np.argmin(losses))
  if lowest == 0:
    raise ConfigError(key, "the loss never falls", accepted="a test that starts at a smaller rate")
  steepest = float(rates[int(np.argmin(slopes[: lowest + 1]))])
  minimum = float(rates[lowest])
  return RangeTest(min(steepest, minimum / 10), steepest, minimum, diverged, rates, losses)


def _smooth(pairs: list[tuple[float, float]], smoothing: float, limit: float
            ) -> tuple[np.ndarray, np.ndarray, float | None]:
  mean, lowest = 0.0, math.inf
  rates: list[float] = []
  losses: list[float] = []
  for i, (rate, loss) in enumerate(pairs):
    mean = smoothing * mean + (1 - smoothing) * loss
    value = mean / (1 - smoothing ** (i + 1))
    if not math.isfinite(value) or value > limit * lowest:
      return np.array(rates), np.array(losses), rate
    lowest = min(lowest, value)
    rates.append(rate)
    losses.append(value)
  return np.array(rates), np.array(losses), None
