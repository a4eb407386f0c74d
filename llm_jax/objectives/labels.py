"""Classification of whole examples by the network's scores: cross-entropy over the labels, with accuracy."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm_jax.core.types import Batch, Key, Knobs, Losses, Mean, Objective, Params


@dataclasses.dataclass(frozen=True)
class Labels(Objective):
  """Cross-entropy in nats per example between scores (B, C) and labels (B,)."""

  fields: tuple[str, ...] = ("inputs", "labels", "weights")
  needs: tuple[str, ...] = ("scores",)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    scores = apply(params, inputs=batch["inputs"], key=key).scores
    return losses_of(scores, batch["labels"], batch["weights"])


def losses_of(scores: jax.Array, labels: jax.Array, weights: jax.Array) -> Losses:
  """Losses and accuracy of scores (..., C) against labels (...)."""
  log_probabilities = jax.nn.log_softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)))
  is_label = jnp.arange(scores.shape[-1]) == labels[..., None]
  values: jax.Array = -jnp.where(is_label, log_probabilities, 0.0).sum(-1)
  right = jax.lax.stop_gradient((scores.argmax(-1) == labels) * weights).sum()
  return Losses(values, weights, {"accuracy": Mean(right, weights.sum())})


def build() -> Labels:
  """Classification by scores."""
  return Labels()
