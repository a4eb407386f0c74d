"""From one logged row to the next: the sums of every step's metrics, the host's time, and the row they make.

A row's numbers are means over all target tokens since the row before it, not the last step's, so that rows of runs with
other intervals compare. The sums live in the run's position and go into its checkpoints: a resumed run logs the row
that the uninterrupted one logs.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_jax.core import likelihood
from llm_jax.core.types import Plan

LAST_VALUE = frozenset({"learning_rate", "skipped_updates", "skipped_in_a_row"})  # others are means over the interval
HIDDEN = frozenset({"skipped_in_a_row", "target_tokens"})


@dataclasses.dataclass
class Sums:
  """Since the last logged row: for every metric the sum of value times weight (target tokens), and of the weights."""

  values: dict[str, float] = dataclasses.field(default_factory=dict)
  weights: dict[str, float] = dataclasses.field(default_factory=dict)

  @classmethod
  def from_json(cls, saved: Mapping[str, Any]) -> "Sums":
    """What `dataclasses.asdict` wrote; older checkpoints had one 'weight', that of the loss, for all names."""
    values = dict(saved["values"])
    return cls(values, dict(saved["weights"]) if "weights" in saved else dict.fromkeys(values, saved["weight"]))

  def add(self, values: Mapping[str, float]) -> None:
    """Adds one step; a number that is not finite is left out, with its weight."""
    for name, value in values.items():
      if name in LAST_VALUE:
        self.values[name] = value
        continue
      finite = np.isfinite(value)
      self.values[name] = self.values.get(name, 0.0) + (value * values["target_tokens"] if finite else 0.0)
      self.weights[name] = self.weights.get(name, 0.0) + (values["target_tokens"] if finite else 0.0)

  def means(self) -> dict[str, float]:
    """{metric: mean over the target tokens of its finite values, or the last value}; NaN where there were none."""
    return {name: value if name in LAST_VALUE else value / self.weights[name] if self.weights[name] else float("nan")
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
    row["train/bits_per_byte"] = likelihood.nats(mean) * bits_per_byte
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
