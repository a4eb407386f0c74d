"""A layer over tokens and entities (Zhang et al. 2019, "ERNIE: Enhanced Language Representation with Informative
Entities", section 3.3): each stream attends to itself, one hidden layer mixes both, and each stream reads it again.

    h = act(W_t w + b_t + W_e e + b_e);  w' = norm(w + V_t h + c_t);  e' = norm(e + V_e h + c_e)
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.layers.attention import Attention, AttentionOptions
from llm_jax.layers.dot_product import Visibility
from llm_jax.layers.dropout import dropout, split
from llm_jax.layers.feed_forward import activation
from llm_jax.layers.linear import Linear
from llm_jax.layers.norm import LayerNorm
from llm_jax.layers.recompute import in_float32
from llm_jax.parallel.rules import constrain


class FusionBlock(nnx.Module):
  """Tokens (B, L, D) and the entities aligned with them (B, L, E) -> both after the layer.

  Args of the constructor:
    width: D. entity_width: E. hidden: width of the layer that mixes. entity_heads: heads of the entities' attention; 0:
      they have none (the first layer that mixes).
  """

  def __init__(self, rngs: nnx.Rngs, width: int, heads: int, entity_width: int, entity_heads: int, hidden: int, *,
               act: str, epsilon: float, dropout: float, options: AttentionOptions):
    self.act, self.dropout = act, dropout
    norm = partial(LayerNorm, rngs, epsilon=epsilon)
    self.attention = Attention(rngs, width, heads, width // heads, options=options)
    self.attention_norm, self.norm, self.entity_norm = norm(width), norm(width), norm(entity_width)
    self.entity_attention = Attention(rngs, entity_width, entity_heads, entity_width // entity_heads,
                                      options=options) if entity_heads else None
    self.entity_attention_norm = norm(entity_width) if entity_heads else None
    self.up = Linear(rngs, {"embed": width}, {"mlp": hidden})
    self.entity_up = Linear(rngs, {"embed": entity_width}, {"mlp": hidden})
    self.down = Linear(rngs, {"mlp": hidden}, {"embed": width})
    self.entity_down = Linear(rngs, {"mlp": hidden}, {"embed": entity_width})

  def __call__(self, w_BLD: jax.Array, e_BLE: jax.Array, aligned_BL: jax.Array, visibility: Visibility,
               entity_visibility: Visibility, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """aligned_BL: True where a token has an entity; elsewhere the entity stream puts nothing into the mixture."""
    keys = split(key, 6)
    drop = lambda x, key: dropout(x, self.dropout, key)
    w = self.attention_norm(w_BLD + drop(self.attention(w_BLD, visibility, key=keys[0])[0], keys[1]))
    e = e_BLE
    if self.entity_attention is not None and self.entity_attention_norm is not None:
      e = self.entity_attention_norm(e + drop(self.entity_attention(e, entity_visibility, key=keys[2])[0], keys[3]))
    e = e * aligned_BL[..., None].astype(e.dtype)
    hidden = in_float32(activation(self.act), constrain(self.up(w) + self.entity_up(e), "batch", "length", "mlp"))
    w = self.norm(w + drop(self.down(hidden), keys[4]))
    return constrain(w, "batch", "length", "width"), self.entity_norm(e + drop(self.entity_down(hidden), keys[5]))


class EntityHead(nnx.Module):
  """Scores of entities: the token's state, through dense, activation and norm, times each vector."""

  def __init__(self, rngs: nnx.Rngs, width: int, entity_width: int, *, act: str, epsilon: float):
    self.act = act
    self.dense = Linear(rngs, {"embed": width}, {"width": entity_width})
    self.norm = LayerNorm(rngs, entity_width, epsilon=epsilon)

  def __call__(self, hidden_BLD: jax.Array, vectors: jax.Array) -> jax.Array:
    """vectors (B, E, W) or (C, W) -> (B, L, E) or (B, L, C)."""
    x = self.norm(activation(self.act)(self.dense(hidden_BLD).astype(jnp.float32)))
    return jnp.einsum("blw,bew->ble" if vectors.ndim == 3 else "blw,cw->blc", x, vectors.astype(x.dtype))
