"""Tables of vectors: token embeddings (and their transpose as the output head) and learned positions."""

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.model import parameter
from llm_jax.layers.linear import Init, linear, normal


class Embedding(nnx.Module):
  """ids (B, L) -> (B, L, D) in `dtype`. `table` is read by tied heads; a Variable is never shared between modules."""

  def __init__(self, rngs: nnx.Rngs, count: int, width: int, *, axis: str = "vocab", dtype: jnp.dtype = jnp.float32,
               init: Init | None = None):
    self.dtype = jnp.dtype(dtype)
    self.embedding = parameter(rngs, (count, width), (axis, "table_embed"), init or normal(0.02))

  def __call__(self, ids: jax.Array) -> jax.Array:
    return jnp.take(self.embedding[...], ids, axis=0).astype(self.dtype)

  def attend(self, x: jax.Array) -> jax.Array:
    """(..., D) -> (..., V): scores by the transposed table (Press and Wolf 2017)."""
    return linear(x, self.embedding[...].T)
