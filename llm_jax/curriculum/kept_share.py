"""A share of each batch is kept and the rest has weight 0: the examples or the tokens of the largest score.

RHO-LOSS, Rho-1 and loss ranks are this with a score and a unit of their own; the share follows a pacing. Ranks are
taken over what one gradient sees: the global batch, or each micro-batch under accumulation.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Curriculum, Knobs, Loss, Losses, Plan
from llm_jax.curriculum import pacing as pacings
from llm_jax.curriculum.pacing import Pacing
from llm_jax.curriculum.weighing import example_losses, ranks, targets, weighted

Unit = Literal["example", "token"]
Score = Callable[[Losses], jax.Array]  # -> like the values; an example's is the mean over its targets


@dataclasses.dataclass(frozen=True)
class KeptShare(Curriculum):
  """The knob 'kept_share' by pacing. score: by it examples or tokens are ranked, the largest are kept; reference: the
  folder of a model whose losses the score reads."""

  batch: int
  length: int
  pacing: Pacing
  unit: Unit
  score: Score
  reference: str | None = None
  sets: tuple[str, ...] = ("knobs",)

  def plan(self, step: int, state: Any) -> Plan:
    return Plan(self.batch, self.length, knobs={"kept_share": self.pacing(step)})

  def weighting(self, losses: Losses, knobs: Knobs) -> Loss:
    scores = jax.lax.stop_gradient(self.score(losses))
    rank = (ranks(scores, losses.weights > 0) if self.unit == "token" else
            ranks(example_losses(losses, scores), targets(losses)))
    return weighted(losses, (rank < knobs["kept_share"]).astype(jnp.float32))


def learnability(losses: Losses) -> jax.Array:
  """Loss minus the reference's: large for what can be learned and has not been (Mindermann et al. 2022, equation 3)."""
  assert losses.about is not None
  return losses.values - losses.about["reference"]


def paced(pacing: str | dict | list, *, start: float, end: float, until: float, steps: int, key: str) -> Pacing:
  """The kept share of every step, from `start` to `end`. key: of the share in error messages.

  Raises:
    ConfigError: a share out of range.
  """
  if not (0 < start <= 1 and 0 < end <= 1):
    raise ConfigError(f"config.curriculum.{key}", f"shares from {start:g} to {end:g}", accepted="above 0, at most 1")
  return pacings.build(pacing, start=start, end=end, until=until, steps=steps, key="config.curriculum.pacing")


def learnable(steps: int, batch: int, length: int, *, reference: str, share: float, start: float | None, until: float,
              pacing: str | dict | list, unit: Unit) -> KeptShare:
  """Selection by learnability. share: kept from `until` on; start: kept at step 0, None is `share` throughout."""
  how = paced(pacing, start=share if start is None else start, end=share, until=until, steps=steps, key="share")
  return KeptShare(batch, length, how, unit, learnability, reference)
