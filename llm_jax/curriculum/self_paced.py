"""Self-paced learning: examples count while their own loss is below a threshold that rises (Kumar et al. 2010; the
linear form of Jiang et al. 2014). A floor under the weights keeps the hard tail from never being seen."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Curriculum, Knobs, Loss, Losses, Plan
from llm_jax.curriculum import pacing as pacings
from llm_jax.curriculum.pacing import Pacing
from llm_jax.curriculum.weighing import example_losses, weighted


@dataclasses.dataclass(frozen=True)
class SelfPaced(Curriculum):
  """The knob 'self_paced_threshold' by pacing; hard: v = [l < threshold], linear: v = max(0, 1 - l / threshold)."""

  batch: int
  length: int
  pacing: Pacing
  form: str
  floor: float
  sets: tuple[str, ...] = ("knobs",)

  def plan(self, step: int, state: Any) -> Plan:
    return Plan(self.batch, self.length, knobs={"self_paced_threshold": self.pacing(step)})

  def weighting(self, losses: Losses, knobs: Knobs) -> Loss:
    value, threshold = example_losses(losses), knobs["self_paced_threshold"]
    soft = jnp.maximum(0.0, 1.0 - value / threshold)
    kept = (value < threshold).astype(jnp.float32) if self.form == "hard" else soft
    return weighted(losses, jnp.maximum(kept, self.floor))


def build(steps: int, batch: int, length: int, *, start: float, end: float, until: float = 1.0,
          pacing: str | dict | list = "linear", form: Literal["hard", "linear"] = "linear",
          floor: float = 0.01) -> SelfPaced:
  """Examples weighted by how easy they are to the model as it is.

  Args:
    start: threshold at step 0, in nats per target; about the loss of an easy example early on.
    end: threshold from `until` on; well above the largest loss lets everything in.
    until: steps, or a fraction of the run up to 1.
    pacing: name, dict(name=..., p=...) or stages [(first step, threshold), ...]; see curriculum/pacing.py.
    form: 'hard' keeps or drops, 'linear' weighs.
    floor: least weight of an example.

  Raises:
    ConfigError: a threshold or floor out of range.
  """
  if start <= 0 or end <= 0:
    raise ConfigError("config.curriculum.start", f"thresholds from {start:g} to {end:g}", accepted="losses above 0")
  if not 0 <= floor <= 1:
    raise ConfigError("config.curriculum.floor", f"got {floor:g}", accepted="0 to 1")
  how = pacings.build(pacing, start=start, end=end, until=until, steps=steps, key="config.curriculum.pacing")
  return SelfPaced(batch, length, how, form, floor)
