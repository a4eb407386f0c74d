"""Attention by content, distance and segment, for one stream of queries or two (Dai et al. 2019; Yang et al. 2019).

A score is the sum of three products of the query, each with a learned vector added to it: with the key, with the
projected sinusoid of the distance, and with a vector for "same segment" or "another one". The second stream knows the
place that it predicts but not the token there: its queries are its own, keys and values are the first stream's.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llm_jax.core.model import parameter
from llm_jax.layers.attention import AttentionOptions
from llm_jax.layers.dot_product import Visibility, attend
from llm_jax.layers.dropout import dropout, split
from llm_jax.layers.linear import Linear, normal
from llm_jax.layers.relative import by_distance
from llm_jax.parallel.rules import constrain


@dataclasses.dataclass(frozen=True)
class Surroundings:
  """What the layers share: of L queries and M keys, the M - L in front of them being of earlier segments.

  content_sees, query_sees: which keys each query of the two streams sees; distances (G, L + M, D): sinusoids, M first,
  of all rows or of each half of the rows; other_segment (B, L, M) bool; target_mapping (B, P, L): the place of each
  prediction.
  """

  content_sees: Visibility
  query_sees: Visibility
  distances: jax.Array
  other_segment: jax.Array | None = None
  target_mapping: jax.Array | None = None


def sinusoids(positions: jax.Array, width: int) -> jax.Array:
  """(R,) -> (R, D): sines, then cosines, of the published frequencies."""
  angles = positions[:, None] * (1.0 / 10_000.0 ** (np.arange(0, width, 2, dtype=np.float32) / width))
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


class TwoStreamAttention(nnx.Module):
  """The projections, without a bias, and the three vectors that are added to every query."""

  def __init__(self, rngs: nnx.Rngs, width: int, heads: int, head_width: int, options: AttentionOptions):
    self.options, self.scale = options, head_width**-0.5
    make = partial(Linear, rngs, {"embed": width}, {"heads": heads, "head": head_width}, bias=False)
    self.query, self.key, self.value, self.distance = make(), make(), make(), make()
    self.out = Linear(rngs, {"heads": heads, "head": head_width}, {"embed": width}, bias=False)
    vector = lambda *lead: parameter(rngs, (*lead, heads, head_width), (None,) * len(lead) + ("heads", "head"),
                                     normal(0.02))
    self.content_bias, self.distance_bias, self.segment_bias = vector(), vector(), vector()
    self.segments = vector(2)  # of the same segment, of another

  def __call__(self, h_BLD: jax.Array, g_BPD: jax.Array | None, memory_BMD: jax.Array | None, around: Surroundings,
               key: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """-> (what the content stream reads (B, L, D), what the query stream reads (B, P, D) or None)."""
    content_key, query_key = split(key, 2)
    seen_BMD = h_BLD if memory_BMD is None else jnp.concatenate([memory_BMD.astype(h_BLD.dtype), h_BLD], 1)
    k, v = self._pinned(self.key(seen_BMD)), self._pinned(self.value(seen_BMD))
    r_GRHK = self.distance(around.distances.astype(h_BLD.dtype))
    read = partial(self._read, k, v, r_GRHK, around.other_segment)
    h = self.out(read(self._pinned(self.query(h_BLD)), around.content_sees, content_key))
    if g_BPD is None:
      return h, None
    mapping = jnp.asarray(around.target_mapping, h_BLD.dtype)
    placed_BLHK = jnp.einsum("bphk,bpl->blhk", self.query(g_BPD), mapping)
    read_BLHK = read(self._pinned(placed_BLHK), around.query_sees, query_key)
    return h, self.out(jnp.einsum("blhk,bpl->bphk", read_BLHK, mapping))

  def _read(self, k, v, r_GRHK, other_BLM, q_BLHK, sees: Visibility, key) -> jax.Array:
    """One stream's queries over the keys -> (B, L, H, K)."""
    B, L, H, K = q_BLHK.shape
    biased = lambda bias: q_BLHK + bias[...].astype(q_BLHK.dtype)
    grouped = biased(self.distance_bias).reshape(r_GRHK.shape[0], -1, L, H, K)
    of_distance = jnp.einsum("gblhk,grhk->gbhlr", grouped, r_GRHK, preferred_element_type=jnp.float32)
    scores = by_distance(of_distance.reshape(B, H, L, -1), k.shape[1])
    if other_BLM is not None:
      of_segment = jnp.einsum("blhk,shk->sbhl", biased(self.segment_bias), self.segments[...].astype(q_BLHK.dtype),
                              preferred_element_type=jnp.float32)
      scores += jnp.where(other_BLM[:, None], of_segment[1][..., None], of_segment[0][..., None])
    o = self.options
    return attend(biased(self.content_bias), k, v, sees, scale=self.scale, bias_BHLM=scores * self.scale,
                  dropout_rate=o.dropout, key=key, implementation=o.implementation)

  def _pinned(self, x: jax.Array) -> jax.Array:
    return constrain(x, "batch", "length", "heads", "head")


class TwoStreamBlock(nnx.Module):
  """Attention and feed-forward, each with dropout, a residual and a norm behind it; both streams share the weights."""

  def __init__(self, attention: TwoStreamAttention, attention_norm: nnx.Module, feed_forward: nnx.Module,
               feed_forward_norm: nnx.Module, *, dropout: float):
    self.attention, self.attention_norm, self.dropout = attention, attention_norm, dropout
    self.feed_forward, self.feed_forward_norm = feed_forward, feed_forward_norm

  def __call__(self, h_BLD: jax.Array, g_BPD: jax.Array | None, memory_BMD: jax.Array | None, around: Surroundings,
               key: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """-> both streams after this layer."""
    attention_key, h_key, g_key = split(key, 3)
    h_read, g_read = self.attention(h_BLD, g_BPD, memory_BMD, around, attention_key)
    h = self._after(h_BLD, h_read, h_key)
    return h, None if g_BPD is None or g_read is None else self._after(g_BPD, g_read, g_key)

  def _after(self, x: jax.Array, read: jax.Array, key: jax.Array | None) -> jax.Array:
    read_key, inner_key, out_key = split(key, 3)
    x = self.attention_norm(x + dropout(read, self.dropout, read_key))
    inner = dropout(self.feed_forward(x, inner_key), self.dropout, out_key)
    return constrain(self.feed_forward_norm(x + inner), "batch", "length", "width")
