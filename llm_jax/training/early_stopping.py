"""Early stopping on a validation metric (Prechelt 1998): stop when it has not improved for `patience` evaluations."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from llm_jax.core.errors import ConfigError

Record = dict[str, float]  # best, step, bad: saved in the checkpoint


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
  """The rule; its memory is a `Record`, {} before the first evaluation."""

  metric: str
  mode: str
  patience: int
  least: float

  def update(self, record: Record, step: int, measured: Mapping[str, float]) -> Record:
    """The record after an evaluation.

    Raises:
      ConfigError: the metric is not among those measured.
    """
    if self.metric not in measured:
      raise ConfigError("config.early_stopping.metric", f"{self.metric!r} is not measured",
                        accepted=", ".join(sorted(measured)))
    value = float(measured[self.metric])
    if not record or self._better(value, record["best"]):
      return {"best": value, "step": step, "bad": 0}
    return {**record, "bad": record["bad"] + 1}

  def _better(self, value: float, best: float) -> bool:
    """A number that is not finite (the model has diverged) is never better, and any other is better than it."""
    sign = 1.0 if self.mode == "min" else -1.0
    return math.isfinite(value) and (not math.isfinite(best) or sign * value < sign * best - self.least)

  def exhausted(self, record: Record) -> bool:
    """Is the patience used up?"""
    return bool(record) and record["bad"] >= self.patience

  def explain(self, record: Record) -> str:
    """Why, in a few words."""
    return f"{self.metric} has not improved since step {int(record['step'])} ({record['best']:.4f})"


def carried(record: Record, saved: Mapping[str, Any] | None, current: Mapping[str, Any] | None) -> Record:
  """What a resume takes over of a record, by the sections of both configs: nothing if another number is watched now."""
  watches = lambda section: section and (section["metric"], section["mode"])
  return record if watches(saved) == watches(current) else {}


def build(*, metric: str = "eval/loss", mode: Literal["min", "max"] = "min", patience: int = 5,
          least: float = 0.0) -> EarlyStopping:
  """The rule.

  Args:
    metric: name of the evaluation metric.
    mode: is smaller ('min') or larger ('max') better.
    patience: evaluations without improvement before the run stops.
    least: smallest change that counts as an improvement.
  """
  if patience < 1:
    raise ConfigError("config.early_stopping.patience", f"got {patience}", accepted="a whole number from 1")
  if least < 0:
    raise ConfigError("config.early_stopping.least", f"got {least}", accepted="a number from 0")
  return EarlyStopping(metric, mode, patience, least)
