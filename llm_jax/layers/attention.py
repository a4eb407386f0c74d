"""Multi-head attention with its projections: grouped keys, rope, per-head norms, a cache; the door does the rest."""

import dataclasses
from typing import Any

import jax
from flax import nnx

from llm_jax.layers import cache as kv
from llm_jax.layers.doors import tpu_forms
from llm_jax.layers.dot_product import Implementation, Visibility, attend
from llm_jax.layers.linear import Init, Linear
from llm_jax.layers.norm import RMSNorm
from llm_jax.layers.positions import rotate
from llm_jax.parallel.rules import constrain


@dataclasses.dataclass(frozen=True)
class AttentionOptions:
  """What does not change the parameters: scale of the scores (None: K ** -0.5), soft cap, dropout, implementation."""

  scale: float | None = None
  soft_cap: float | None = None
  dropout: float = 0.0
  implementation: Implementation = "auto"


class Attention(nnx.Module):
  """Self-attention (B, L, D) -> (B, L, D) in three steps that a remat policy can cut between: project, attend, out."""

  def __init__(self, rngs: nnx.Rngs, width: int, heads: int, head_width: int, *, kv_heads: int | None = None,
               bias: bool = True, out_bias: bool | None = None, qk_norm: dict[str, Any] | None = None,
               init: Init | None = None, query_init: Init | None = None, out_init: Init | None = None,
               options: AttentionOptions | None = None):
    kv_heads = kv_heads or heads
    self.options = options or AttentionOptions()
    self.query = Linear(rngs, {"embed": width}, {"heads": heads, "head": head_width}, bias=bias,
                        init=query_init or init)
    self.key = Linear(rngs, {"embed": width}, {"kv_heads": kv_heads, "head": head_width}, bias=bias, init=init)
    self.value = Linear(rngs, {"embed": width}, {"kv_heads": kv_heads, "head": head_width}, bias=bias, init=init)
    self.out = Linear(rngs, {"heads": heads, "head": head_width}, {"embed": width},
                      bias=bias if out_bias is None else out_bias, init=out_init or init)
    self.query_norm = RMSNorm(rngs, head_width, axis="head", **qk_norm) if qk_norm is not None else None
    self.key_norm = RMSNorm(rngs, head_width, axis="head", **qk_norm) if qk_norm is not None else None

  def project(self, x_BLD: jax.Array, rotation: tuple[jax.Array, jax.Array] | None = None) -> tuple[jax.Array, ...]:
    """-> q (B, L, H, K), k (B, L, G, K), v (B, L, G, K), normed and rotated."""
    return self.queries(x_BLD, rotation), *self.keys_and_values(x_BLD, rotation)

  def queries(self, x_BLD: jax.Array, rotation: tuple[jax.Array, jax.Array] | None = None) -> jax.Array:
    """-> (B, L, H, K), scaled already where `attend` leaves that to them."""
    q = self.query(x_BLD, self._early_scale)
    q = q if self.query_norm is None else self.query_norm(q)
    return constrain(q if rotation is None else rotate(q, *rotation), "batch", "length", "heads", "head")

  @property
  def _scale(self) -> float:
    return self.query.outputs[-1] ** -0.5 if self.options.scale is None else self.options.scale

  @property
  def _early_scale(self) -> float | None:
    """The scale of the scores where the weights of the queries take it: a TPU's kernel wants scaled queries, and to
    scale them and their gradients takes two passes, to scale weights none. Not where a norm comes in between."""
    return self._scale if tpu_forms() and self.query_norm is None else None

  def keys_and_values(self, x_BMD: jax.Array,
                      rotation: tuple[jax.Array, jax.Array] | None = None) -> tuple[jax.Array, jax.Array]:
    """-> k, v (B, M, G, K); of an encoder's states where this is cross attention."""
    k, v = self.key(x_BMD), self.value(x_BMD)
    k = k if self.key_norm is None else self.key_norm(k)
    k = k if rotation is None else rotate(k, *rotation)
    return constrain(k, "batch", "length", "kv_heads", "head"), constrain(v, "batch", "length", "kv_heads", "head")

  def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, visibility: Visibility, key: jax.Array | None = None,
             bias_BHLM: jax.Array | None = None, heads_first: bool = False) -> jax.Array:
    """Through the door -> (B, L, H, K), or (B, H, L, K) with `heads_first`."""
    o = self.options
    scale = self._scale if self._early_scale is None else 1.0
    return attend(q, k, v, visibility, scale=scale, soft_cap=o.soft_cap, bias_BHLM=bias_BHLM, dropout_rate=o.dropout,
                  key=key, implementation=o.implementation, heads_first=heads_first)

  def __call__(self, x_BLD: jax.Array, visibility: Visibility, rotation: tuple[jax.Array, jax.Array] | None = None,
               cache: kv.Cache | None = None, layer: jax.Array | int = 0,
               key: jax.Array | None = None) -> tuple[jax.Array, kv.Cache | None]:
    """-> (output (B, L, D), cache with this call's keys and values)."""
    q, k, v = self.project(x_BLD, rotation)
    if cache is not None:
      k, v, cache = kv.write(cache, layer, k, v)
    return self.out(self.attend(q, k, v, visibility, key)), cache
