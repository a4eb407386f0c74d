"""In-context regression: squared error of each point's prediction from those before it (Garg et al. 2022, eq. 1)."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm_jax.core.types import Batch, Key, Knobs, Losses, Mean, Objective, Params


@dataclasses.dataclass(frozen=True)
class InContextRegression(Objective):
  """One value per point; metrics: `error`, the mean over all points over `scale`, and `error_last` at the last one."""

  scale: float
  fields: tuple[str, ...] = ("inputs", "targets", "weights")
  needs: tuple[str, ...] = ("prompts",)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    scores = apply(params, inputs=batch["inputs"], targets=batch["targets"], key=key).scores.astype(jnp.float32)
    values, weights = jnp.square(scores - batch["targets"]), batch["weights"]
    scaled = jax.lax.stop_gradient(values) / self.scale * weights
    return Losses(values, weights, {"error": Mean(scaled.sum(), weights.sum()),
                                    "error_last": Mean(scaled[:, -1].sum(), weights[:, -1].sum())})


def build(*, scale: float = 20.0) -> InContextRegression:
  """Squared error of predictions in context.

  Args:
    scale: what the reported error is divided by, the dimensions: predicting 0 then has error 1.
  """
  return InContextRegression(scale)
