"""Focal weighting: (1 - p)^gamma per target with p = exp(-loss), so that what is known already counts less
(Lin et al. 2017, equation 4); a negative gamma prefers the easy."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.types import Curriculum, Knobs, Loss, Losses, Plan
from llm_jax.curriculum import pacing as pacings
from llm_jax.curriculum.pacing import Pacing
from llm_jax.curriculum.weighing import weighted


@dataclasses.dataclass(frozen=True)
class Focal(Curriculum):
  """The knob 'focal_gamma' by pacing."""

  batch: int
  length: int
  pacing: Pacing
  sets: tuple[str, ...] = ("knobs",)

  def plan(self, step: int, state: Any) -> Plan:
    return Plan(self.batch, self.length, knobs={"focal_gamma": self.pacing(step)})

  def weighting(self, losses: Losses, knobs: Knobs) -> Loss:
    missed = -jnp.expm1(-jnp.maximum(jax.lax.stop_gradient(losses.values), 1e-6))  # 1 - p
    return weighted(losses, missed ** knobs["focal_gamma"])


def build(steps: int, batch: int, length: int, *, start: float = 0.0, end: float = 2.0, until: float = 0.3,
          pacing: str | dict | list = "cosine") -> Focal:
  """Targets weighted by how far they are from certain.

  Args:
    start: gamma at step 0; 0 is the plain loss.
    end: gamma from `until` on.
    until: steps, or a fraction of the run up to 1.
    pacing: name, dict(name=..., p=...) or stages [(first step, gamma), ...]; see curriculum/pacing.py.
  """
  return Focal(batch, length, pacings.build(pacing, start=start, end=end, until=until, steps=steps,
                                            key="config.curriculum.pacing"))
