"""What a study takes from a run's metrics: the first step past a threshold, the last value, the best; and means with
spread over the runs of an arm."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]
Measure = Callable[[Rows], float | None]


def last(name: str) -> Measure:
  """The last value of a metric."""
  return lambda rows: curve(rows, name)[-1][1]


def best(name: str, pick: Callable = min) -> Measure:
  """The smallest value of a metric, or the largest with pick=max."""
  return lambda rows: pick(value for _, value in curve(rows, name))


def first_step(name: str, *, above: float | None = None, below: float | None = None) -> Measure:
  """The first step at which a metric is past a threshold; None if it never is."""
  def past(value: float) -> bool:
    return value > above if above is not None else value < below  # type: ignore[operator]
  return lambda rows: next((step for step, value in curve(rows, name) if past(value)), None)


def at_step(name: str, step: int) -> Measure:
  """The value of a metric at a step; None if it was not measured there."""
  return lambda rows: dict(curve(rows, name)).get(step)


def curve(rows: Rows, name: str) -> list[tuple[int, float]]:
  """[(step, value)] of a metric."""
  return [(row["step"], row[name]) for row in rows if name in row]


def spread(values: Sequence[float | None]) -> dict[str, Any]:
  """Mean, sample standard deviation and the values; mean is None if one is missing ('never')."""
  known = [v for v in values if v is not None and math.isfinite(v)]
  whole = len(known) == len(values) and bool(known)
  return {"mean": statistics.fmean(known) if whole else None,
          "deviation": statistics.stdev(known) if whole and len(known) > 1 else None, "values": list(values)}


def table(arms: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
  """Markdown: one row per arm, mean ± deviation, or the values where one is 'never'."""
  names = list(next(iter(arms.values())))
  lines = ["| arm | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
  lines += [f"| {arm} | " + " | ".join(_cell(found[name]) for name in names) + " |" for arm, found in arms.items()]
  return "\n".join(lines)


def _cell(found: Mapping[str, Any]) -> str:
  if found["mean"] is None:
    return " / ".join("never" if v is None else _number(v) for v in found["values"])
  return _number(found["mean"]) + (f" ± {_number(found['deviation'])}" if found["deviation"] is not None else "")


def _number(value: float) -> str:
  return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"
