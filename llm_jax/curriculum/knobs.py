"""Knobs over time: any scalar that the objective, the weighting or a synthetic data source reads from the plan.

Mask ratio and span length of a denoising objective, dimensions and points of a function family, the strength of a loss
term: `knobs = {'mask_ratio': dict(start=0.15, end=0.3)}`. The values are traced: no recompilation when they change.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from llm_jax.core.errors import ConfigError, nearest_name
from llm_jax.core.types import Curriculum, Plan
from llm_jax.curriculum import pacing as pacings
from llm_jax.curriculum.pacing import Pacing

SPEC = ("start", "end", "until", "pacing", "whole")


@dataclasses.dataclass(frozen=True)
class Knobs(Curriculum):
  """{knob: pacing}; whole: knobs that are rounded down to whole numbers."""

  batch: int
  length: int
  pacings: Mapping[str, Pacing]
  whole: frozenset[str]
  sets: tuple[str, ...] = ("knobs",)

  def plan(self, step: int, state: Any) -> Plan:
    values = {name: how(step) for name, how in self.pacings.items()}
    return Plan(self.batch, self.length,
                knobs={name: float(int(v + 1e-9)) if name in self.whole else v for name, v in values.items()})


def build(steps: int, batch: int, length: int, *, knobs: dict, until: float = 0.3,
          pacing: str | dict | list = "linear") -> Knobs:
  """Scalars that move from a start to an end.

  Args:
    knobs: {name: dict(start=..., end=..., until=..., pacing=..., whole=False)}; whole rounds down.
    until: of the knobs that give none: steps, or a fraction of the run up to 1.
    pacing: of the knobs that give none; see curriculum/pacing.py.

  Raises:
    ConfigError: a knob without start or end, or with a key that is not one of these.
  """
  found, whole = {}, set()
  for name, spec in knobs.items():
    key = f"config.curriculum.knobs.{name}"
    if not isinstance(spec, Mapping) or not {"start", "end"} <= spec.keys():
      raise ConfigError(key, f"got {spec!r}", accepted="dict(start=..., end=...)")
    for k in spec.keys() - set(SPEC):
      raise ConfigError(f"{key}.{k}", "unknown key", accepted=", ".join(SPEC), nearest=nearest_name(k, SPEC))
    found[name] = pacings.build(spec.get("pacing", pacing), start=spec["start"], end=spec["end"],
                                until=spec.get("until", until), steps=steps, key=f"{key}.pacing")
    whole |= {name} if spec.get("whole", False) else set()
  if not found:
    raise ConfigError("config.curriculum.knobs", "no knob given", accepted="{'mask_ratio': dict(start=.15, end=.3)}")
  return Knobs(batch, length, found, frozenset(whole))
