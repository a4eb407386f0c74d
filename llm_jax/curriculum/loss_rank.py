"""Loss-rank weighting: only a share of each batch counts, by the rank of its loss: the hardest (online hard example
mining, Shrivastava et al. 2016) or the easiest (trimmed loss, Shen and Sanghavi 2019).

Ranks are taken over what one gradient sees: the global batch, or each micro-batch under accumulation.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Curriculum, Knobs, Loss, Losses, Plan
from llm_jax.curriculum import pacing as pacings
from llm_jax.curriculum.pacing import Pacing
from llm_jax.curriculum.weighing import example_losses, ranks, targets, weighted


@dataclasses.dataclass(frozen=True)
class LossRank(Curriculum):
  """The knob 'kept_share' by pacing."""

  batch: int
  length: int
  pacing: Pacing
  which: str
  unit: str
  sets: tuple[str, ...] = ("knobs",)

  def plan(self, step: int, state: Any) -> Plan:
    return Plan(self.batch, self.length, knobs={"kept_share": self.pacing(step)})

  def weighting(self, losses: Losses, knobs: Knobs) -> Loss:
    per_token = self.unit == "token"
    value = jax.lax.stop_gradient(losses.values) if per_token else example_losses(losses)
    valid = losses.weights > 0 if per_token else targets(losses)
    rank = ranks(value if self.which == "hardest" else -value, valid)
    return weighted(losses, (rank < knobs["kept_share"]).astype(jnp.float32))


def build(steps: int, batch: int, length: int, *, start: float = 1.0, end: float = 0.5, until: float = 0.3,
          pacing: str | dict | list = "linear", which: Literal["hardest", "easiest"] = "hardest",
          unit: Literal["example", "token"] = "example") -> LossRank:
  """Only the share of the batch with the largest (or smallest) losses counts.

  Args:
    start: share kept at step 0.
    end: share kept from `until` on.
    until: steps, or a fraction of the run up to 1.
    pacing: name, dict(name=..., p=...) or stages [(first step, share), ...]; see curriculum/pacing.py.
    which: 'hardest' or 'easiest'.
    unit: rank examples by their mean loss, or tokens.

  Raises:
    ConfigError: a share out of range.
  """
  if not (0 < start <= 1 and 0 < end <= 1):
    raise ConfigError("config.curriculum.start", f"shares from {start:g} to {end:g}", accepted="above 0, at most 1")
  how = pacings.build(pacing, start=start, end=end, until=until, steps=steps, key="config.curriculum.pacing")
  return LossRank(batch, length, how, which, unit)
