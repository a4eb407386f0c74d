"""Regression: squared error of each example, averaged over the outputs."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params


@dataclasses.dataclass(frozen=True)
class Regression(Objective):
  """Mean over outputs of (score - target)^2, one value per example."""

  fields: tuple[str, ...] = ("inputs", "targets", "weights")
  needs: tuple[str, ...] = ("scores",)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    scores = apply(params, inputs=batch["inputs"], key=key).scores
    dtype = jnp.promote_types(scores.dtype, jnp.float32)
    values: jax.Array = jnp.square(scores.astype(dtype) - batch["targets"]).mean(-1)
    return Losses(values, batch["weights"], {})


def build() -> Regression:
  """Squared error."""
  return Regression()
