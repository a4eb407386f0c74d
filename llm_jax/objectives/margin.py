"""Binary classification by a margin: hinge loss (or squared error) of a score against a target of -1 or +1."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from llm_jax.core.types import Batch, Key, Knobs, Losses, Mean, Objective, Params


@dataclasses.dataclass(frozen=True)
class Margin(Objective):
  """One value per example; metric `accuracy`: the share whose score has the target's sign."""

  loss: str
  fields: tuple[str, ...] = ("inputs", "targets", "weights")
  needs: tuple[str, ...] = ("scores",)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    scores = apply(params, inputs=batch["inputs"], key=key).scores.astype(jnp.float32)
    agreement = (scores * batch["targets"]).mean(-1)
    values = jnp.maximum(0.0, 1.0 - agreement) if self.loss == "hinge" else jnp.square(1.0 - agreement)
    weights = batch["weights"]
    right = (jax.lax.stop_gradient(agreement) > 0).astype(jnp.float32)
    return Losses(values, weights, {"accuracy": Mean((right * weights).sum(), weights.sum())})


def build(*, loss: Literal["hinge", "squared"] = "hinge") -> Margin:
  """Targets of -1 and +1.

  Args:
    loss: 'hinge', max(0, 1 - score * target), or 'squared', (1 - score * target)^2.
  """
  return Margin(loss)
