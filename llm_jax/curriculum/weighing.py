"""What the weightings share: factors on losses, and sums by domain as metrics that still add up over micro-batches.

A weighting turns an objective's losses and the plan's knobs into a scalar inside the step. Factors carry no gradient
and the loss is divided by the sum of the weights after them, so that the size of an update does not depend on how many
examples are kept.
"""

import jax
import jax.numpy as jnp

from llm_jax.core.types import Loss, Losses, Mean, Metrics


def weighted(losses: Losses, factor: jax.Array | float, metrics: Metrics | None = None) -> Loss:
  """sum(w f l) / sum(w f) as sums; factor: like the values, or (B,) per example. Adds metrics: `plain_loss`, the loss
  without the factors, and `kept`, their mean."""
  weights = losses.weights.astype(jnp.float32)
  factor = jnp.asarray(factor, jnp.float32)
  factor = factor.reshape(factor.shape + (1,) * (weights.ndim - factor.ndim)) if factor.ndim else factor
  counts = jax.lax.stop_gradient(weights * factor)
  total, weight = (losses.values * counts).sum(), counts.sum()
  kept = {"plain_loss": Mean(jax.lax.stop_gradient((losses.values * weights).sum()), weights.sum()),
          "kept": Mean(weight, weights.sum())}
  return Loss(total + losses.auxiliary * weight, weight, {**losses.metrics, **kept, **(metrics or {})})


def example_losses(losses: Losses, values: jax.Array | None = None) -> jax.Array:
  """(B,) mean loss of each example over its targets, without gradient; values: others of the same shape."""
  values = jax.lax.stop_gradient(losses.values if values is None else values)
  axes = tuple(range(1, values.ndim))
  return (values * losses.weights).sum(axes) / jnp.maximum(losses.weights.sum(axes), 1e-8)


def targets(losses: Losses) -> jax.Array:
  """(B,) True where an example has a target at all."""
  return losses.weights.sum(tuple(range(1, losses.weights.ndim))) > 0


def ranks(values: jax.Array, valid: jax.Array) -> jax.Array:
  """The share of valid values that are larger, in [0, 1): 0 is the largest; equal values keep their order. Where not
  valid, at least 1."""
  flat, good = values.reshape(-1), valid.reshape(-1)
  order = jnp.argsort(jnp.where(good, -flat, jnp.inf), stable=True)
  place = jnp.zeros(flat.shape, jnp.float32).at[order].set(jnp.arange(flat.size, dtype=jnp.float32))
  return (place / jnp.maximum(good.sum(), 1)).reshape(values.shape)


def by_domain(losses: Losses, domains: tuple[str, ...], values: jax.Array | None = None,
              name: str = "loss") -> Metrics:
  """{'share/d': d's part of the targets, '<name>_part/d': its part of the mean}: mean of d = part / share, and both add
  up over micro-batches and hosts."""
  assert losses.about is not None  # the curriculum asked for the field 'domain'
  values = jax.lax.stop_gradient(losses.values if values is None else values)
  weights = losses.weights.astype(jnp.float32)
  whole, found = weights.sum(), {}
  for i, d in enumerate(domains):
    mine = (losses.about["domain"] == i).reshape((-1,) + (1,) * (weights.ndim - 1)) * weights
    found[f"share/{d}"] = Mean(mine.sum(), whole)
    found[f"{name}_part/{d}"] = Mean((values * mine).sum(), whole)
  return found
