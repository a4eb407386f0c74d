"""Several losses as one: the sum of each part's mean times its weight, with the numbers of each part by its name."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llm_jax.core.types import Losses, Mean


class Part(NamedTuple):
  """A part of a combined loss; name: how its metrics begin."""

  name: str
  weight: float
  losses: Losses


def combine(parts: Sequence[Part]) -> Losses:
  """sum over parts of weight * mean(part), each mean taken over the (micro-)batch, as values and weights (B, columns).

  The total weight is that of the first part, so that accumulated micro-batches count by it; a part without a target in
  the batch counts as 0. Metrics: `<name>_loss` and the part's own, `<name>_accuracy`.
  """
  total = sum(p.weight for p in parts)
  first = parts[0].losses.weights.astype(jnp.float32).sum()
  values, weights, metrics = [], [], {}
  for part in parts:
    v, w = (x.astype(jnp.float32).reshape(x.shape[0], -1) for x in (part.losses.values, part.losses.weights))
    there = w.sum() > 0
    value, weight = jnp.where(there, v, 0.0), jnp.where(there, w, 1.0)
    values.append(value * total)
    weights.append(weight * (part.weight / total * first / weight.sum()))
    metrics[f"{part.name}_loss"] = Mean(jax.lax.stop_gradient((v * w).sum()), w.sum())
    metrics |= {f"{part.name}_{name}": m for name, m in part.losses.metrics.items()}
  auxiliary = sum(p.weight * p.losses.auxiliary for p in parts)
  return Losses(jnp.concatenate(values, 1), jnp.concatenate(weights, 1), metrics, auxiliary)
