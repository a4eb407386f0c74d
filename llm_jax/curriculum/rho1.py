"""Selective language modelling: only the tokens with the largest loss minus reference loss count (Rho-1, Lin et al.
2024, equation 4). All tokens are read, some are learned."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.types import Curriculum, Knobs, Loss, Losses, Plan
from llm_jax.curriculum import kept_share
from llm_jax.curriculum.pacing import Pacing
from llm_jax.curriculum.weighing import ranks, weighted


@dataclasses.dataclass(frozen=True)
class Rho1(Curriculum):
  """The knob 'kept_share' by pacing; ranks are taken over the batch, or each micro-batch under accumulation."""

  batch: int
  length: int
  pacing: Pacing
  reference: str | None = None
  sets: tuple[str, ...] = ("knobs",)

  def plan(self, step: int, state: Any) -> Plan:
    return Plan(self.batch, self.length, knobs={"kept_share": self.pacing(step)})

  def weighting(self, losses: Losses, knobs: Knobs) -> Loss:
    assert losses.about is not None
    excess = jax.lax.stop_gradient(losses.values) - losses.about["reference"]
    return weighted(losses, (ranks(excess, losses.weights > 0) < knobs["kept_share"]).astype(jnp.float32))


def build(steps: int, batch: int, length: int, *, reference: str, share: float = 0.6, start: float | None = None,
          until: float = 0.3, pacing: str | dict | list = "linear") -> Rho1:
  """The most learnable tokens of each batch.

  Args:
    reference: workdir or Hugging Face folder of a model with the same tokenizer, trained on high-quality text.
    share: part of the targets that is kept.
    start: part kept at step 0, if it is to shrink to `share`; None keeps `share` throughout.
    until: when `share` is reached: steps, or a fraction of the run up to 1.
    pacing: name, dict(name=..., p=...) or stages [(first step, share), ...]; see curriculum/pacing.py.

  Raises:
    ConfigError: a share out of range.
  """
  how = kept_share.paced(pacing, share=share, start=start, until=until, steps=steps)
  return Rho1(batch, length, how, reference)
