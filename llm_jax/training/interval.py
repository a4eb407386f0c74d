"""From one logged row to the next: the sums of every step's metrics, the host's time, and the row they make.

A row's numbers are means over all target tokens since the row before it, not the last step's, so that rows of runs with
other intervals compare. The sums live in the run's position and go into its checkpoints: a resumed run logs the row
that the uninterrupted one logs.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_jax.core.types import Plan

LAST_VALUE = frozenset({"learning_rate", "skipped_updates", "skipped_in_a_row"})  # others are means over the interval
HIDDEN = frozenset({"skipped_in_a_row", "target_tokens"})


@dataclasses.dataclass
class Sums:
  """Since the last logged row: the sum of every metric times its step's weight, and those weights (target tokens)."""

  values: dict[str, float] = dataclasses.field(default_factory=dict)
  weight: float = 0.0

  def add(self, values: Mapping[str, float]) -> None:
    """Adds one step; a number that is not finite (a skipped step) is left out."""
    for name, value in values.items():
      if name in LAST_VALUE:
        self.values[name] = value
      elif np.isfinite(value):
        self.values[name] = self.values.get(name, 0.0) + value * values["target_tokens"]
    self.weight += values["target_tokens"] if np.isfinite(values["loss"]) else 0.0

  def means(self) -> dict[str, float]:
    """{metric: mean over the target tokens, or the last value}; NaN where every step was skipped."""
    return {name: value if name in LAST_VALUE else value / self.weight if self.weight else float("nan")
            for name, value in self.values.items()}


@dataclasses.dataclass
class Clock:
  """Seconds and steps since the last logged row."""

  data: float = 0.0
  dispatch: float = 0.0
  device: float = 0.0
  steps: int = 0
  tokens: int = 0

  def split(self) -> dict[str, float]:
    """The mean step's time by where the host spent it."""
    n = max(self.steps, 1)
    return {"time/data": self.data / n, "time/dispatch": self.dispatch / n, "time/device": self.device / n,
            "time/step": self.total / n}

  @property
  def total(self) -> float:
    return self.data + self.dispatch + self.device


def learned(mean: Mapping[str, float], bits_per_byte: float | None) -> dict[str, float]:
  """The row's part about learning: {'train/...': mean}, by domain too; `bits_per_byte` is the factor from nats."""
  row = {f"train/{name}": v for name, v in mean.items() if name not in HIDDEN and "_part/" not in name}
  row |= parts_over_shares(mean)
  if bits_per_byte is not None and "loss" in mean:
    row["train/bits_per_byte"] = mean["loss"] * bits_per_byte
  return row


def planned(plan: Plan, shapes: int) -> dict[str, Any]:
  """The row's part about the curriculum: what the newest step's plan asked for, where that can change."""
  row: dict[str, Any] = {"curriculum/length": plan.length, "curriculum/batch": plan.batch} if shapes > 1 else {}
  if plan.admit < 1.0:
    row["curriculum/admit"] = plan.admit
  row |= {f"curriculum/{name}": value for name, value in plan.knobs.items()}
  row |= {f"curriculum/mixture/{name}": value for name, value in (plan.mixture or {}).items()}
  return row


def parts_over_shares(mean: Mapping[str, float]) -> dict[str, float]:
  """{'train/loss/code': ...}: the mean over a domain, from its part of the whole's mean and its share of targets."""
  found = {}
  for name, part in mean.items():
    kind, _, domain = name.partition("_part/")
    if domain and mean.get(f"share/{domain}", 0.0) > 0:
      found[f"train/{kind}/{domain}"] = part / mean[f"share/{domain}"]
  return found
