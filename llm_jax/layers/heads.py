"""Heads of decoders for labels: of a whole sequence, of each token, of one choice among several."""

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.layers.linear import Linear


class LastTokenHead(nnx.Module):
  """Scores (B, C) of the rightmost token that is not padding (Hugging Face's decoder sequence classification)."""

  def __init__(self, rngs: nnx.Rngs, width: int, labels: int, pad_token: int | None):
    self.pad_token = pad_token
    self.score = Linear(rngs, {"embed": width}, {"labels": labels}, bias=False)

  def __call__(self, hidden_BLD: jax.Array, input_ids_BL: jax.Array) -> jax.Array:
    slots = jnp.arange(input_ids_BL.shape[1])
    last_B = jnp.where(input_ids_BL != (-1 if self.pad_token is None else self.pad_token), slots, 0).max(-1)
    return self.score(jnp.take_along_axis(hidden_BLD, last_B[:, None, None], axis=1)[:, 0])


class ChoiceHead(nnx.Module):
  """One score per choice, read at `token_ids`: hidden (B, C, L, D), token_ids (B, C) -> (B, C) (Radford et al. 2018)."""

  def __init__(self, rngs: nnx.Rngs, width: int):
    self.summary = Linear(rngs, {"embed": width}, {"labels": 1})

  def __call__(self, hidden_BCLD: jax.Array, token_ids_BC: jax.Array) -> jax.Array:
    read = jnp.take_along_axis(hidden_BCLD, token_ids_BC[..., None, None], axis=-2)[..., 0, :]
    return self.summary(read)[..., 0]
