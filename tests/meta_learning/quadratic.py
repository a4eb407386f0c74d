"""A family of tasks whose meta-gradients have closed forms: L(theta) = (theta - c)' A (theta - c) / 2."""

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core.example_weights import applied
from llm_jax.core.types import Loss, Losses
from llm_jax.meta_learning.context import Context

SIZE = 5


def tasks(count, seed=0):
  """(support and query batch, A (T, D, D), centres of support and query (T, D)), float64."""
  random = np.random.default_rng(seed)
  root = random.normal(size=(count, SIZE, SIZE))
  A = root @ root.transpose(0, 2, 1) / SIZE + 0.1 * np.eye(SIZE)
  c_s, c_q = random.normal(size=(2, count, SIZE))
  one = np.ones((count, 1))
  batch = {"support": {"matrix": A[:, None], "centre": c_s[:, None], "weights": one},
           "query": {"matrix": A[:, None], "centre": c_q[:, None], "weights": one}}
  return batch, A, c_s, c_q


def loss_fn(params, batch, key):
  """A batch of B such losses; the parameter 'rest' does not enter."""
  off = params["theta"] - batch["centre"]
  values = 0.5 * jnp.einsum("bi,bij,bj->b", off, batch["matrix"], off)
  losses = applied(Losses(values, batch["weights"], {}), batch)
  total = (values * losses.weights).sum()
  return total, Loss(total, losses.weights.sum(), {})


def context(names=("theta",)):
  shapes = {n: jax.ShapeDtypeStruct((SIZE,), jnp.float32) for n in names}
  return Context(shapes, dict.fromkeys(names, (None,)))
