"""Learnability selection: of each batch only the examples with the largest loss minus reference loss count (RHO-LOSS,
Mindermann et al. 2022, equation 3): what can be learned and has not been, neither noise nor what is known already.

The published form draws a large batch and trains on the chosen part; here the rest has weight 0. The gradient is the
same; the backward pass of the rest is not saved.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from llm_jax.core.types import Curriculum, Knobs, Loss, Losses, Plan
from llm_jax.curriculum import kept_share
from llm_jax.curriculum.pacing import Pacing
from llm_jax.curriculum.weighing import example_losses, ranks, targets, weighted


@dataclasses.dataclass(frozen=True)
class RhoLoss(Curriculum):
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
    excess = example_losses(losses, losses.values - losses.about["reference"])
    return weighted(losses, (ranks(excess, targets(losses)) < knobs["kept_share"]).astype(jnp.float32))


def build(steps: int, batch: int, length: int, *, reference: str, share: float = 0.1, start: float | None = None,
          until: float = 0.3, pacing: str | dict | list = "linear") -> RhoLoss:
  """The most learnable examples of each batch.

  Args:
    reference: workdir or Hugging Face folder of a model with the same tokenizer, trained on held-out or clean data.
    share: part of the batch that is kept; the paper's is 0.1.
    start: part kept at step 0, if it is to shrink to `share`; None keeps `share` throughout.
    until: when `share` is reached: steps, or a fraction of the run up to 1.
    pacing: name, dict(name=..., p=...) or stages [(first step, share), ...]; see curriculum/pacing.py.

  Raises:
    ConfigError: a share out of range.
  """
  how = kept_share.paced(pacing, share=share, start=start, until=until, steps=steps)
  return RhoLoss(batch, length, how, reference)
