"""The state that a recurrent model carries from one batch to the next while it trains or is evaluated.

Rows of step t + 1 continue those of step t (data packing 'stream'), so the state after a row is where the next one
starts: gradients stop at the border (truncated backpropagation through time), what is remembered does not. The state
is a dict of arrays with the rows first; it travels in the batch as 'carry' and comes back in `Losses.carry`. What an
objective remembers (rollouts that serve several steps) takes the same way.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.model import Model
from llm_jax.core.types import Batch


def start(model: Model, batch: int, length: int) -> dict[str, Any]:
  """The state before the first token of `batch` rows: the model's empty cache, zeros."""
  shapes = jax.eval_shape(lambda p: model.apply(p, batch, length, method="init_cache"), model.shapes)
  return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def enter(batch: Batch, carry: Mapping[str, Any]) -> Batch:
  """The batch with the state of its rows: what was carried where 'continues' (B,) says so, else zeros; all of it where
  the batch says nothing; no gradient."""
  if "continues" not in batch:
    return {**batch, "carry": jax.lax.stop_gradient(dict(carry))}
  goes_on = batch["continues"]
  def keep(a: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(jnp.where(goes_on.reshape(-1, *[1] * (a.ndim - 1)) > 0, a, jnp.zeros_like(a)))
  return {**batch, "carry": jax.tree.map(keep, dict(carry))}
