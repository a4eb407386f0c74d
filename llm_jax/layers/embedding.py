"""Tables of vectors: token embeddings (and their transpose as the output head) and learned positions."""

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.model import parameter
from llm_jax.layers import linear_cpu
from llm_jax.layers.doors import cpu_forms
from llm_jax.layers.linear import Init, linear, normal
from llm_jax.parallel import gathered


def untrained(x: jax.Array, where: jax.Array) -> jax.Array:
  """x (..., D) as it is, without a gradient `where` (...) is true."""
  return jnp.where(where[..., None], jax.lax.stop_gradient(x), x)


class Embedding(nnx.Module):
  """ids (B, L) -> (B, L, D) in `dtype`. `table` is read by tied heads; a Variable is never shared between modules.

  padding: an id whose row is not trained by being read, as PyTorch's padding_idx; a tied head still trains it.
  """

  def __init__(self, rngs: nnx.Rngs, count: int, width: int, *, axis: str = "vocab", dtype: jnp.dtype = jnp.float32,
               init: Init | None = None, padding: int | None = None):
    self.dtype, self.padding = jnp.dtype(dtype), padding
    self.axes = (axis, "table_embed")
    self.embedding = parameter(rngs, (count, width), self.axes, init or normal(0.02))

  def __call__(self, ids: jax.Array) -> jax.Array:
    look_up = lambda ids, table: jnp.take(table, ids, axis=0).astype(self.dtype)
    def pull_back(ids: jax.Array, gradient: jax.Array) -> jax.Array:  # sums in float32: some ids come very often
      return jnp.zeros(self.embedding.shape, jnp.float32).at[ids].add(gradient.astype(jnp.float32))
    x = gathered.on_rows(look_up, ids, self.embedding[...], self.axes, self.dtype, pull_back)
    return x if self.padding is None else untrained(x, ids == self.padding)

  def attend(self, x: jax.Array) -> jax.Array:
    """(..., D) -> (..., V): scores by the transposed table (Press and Wolf 2017)."""
    if cpu_forms() and linear_cpu.are_few(x_TI := x.reshape(-1, x.shape[-1]), linear_cpu.FEW):
      return linear_cpu.weights_first(x_TI, self.embedding[...]).reshape(*x.shape[:-1], -1)
    return linear(x, self.embedding[...].T, axes=self.axes[::-1])
