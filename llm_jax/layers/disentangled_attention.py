"""Disentangled attention (He et al. 2021, "DeBERTa", section 3.1): content sees content and relative positions apart.

score(i, j) = (q_i k_j + q_i P_k[d] + k_j P_q[d]) / sqrt(K * (1 + terms)), where d is the row of a table of relative
positions for the distance i - j: its own row near by, a logarithmic bucket farther off (versions 2 and 3). The products
with positions are taken for all 2 L - 1 distances and shifted into place, so that no (L, L) gather is needed.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llm_jax.layers.attention import AttentionOptions
from llm_jax.layers.dot_product import Visibility, attend
from llm_jax.layers.dropout import dropout, split
from llm_jax.layers.feed_forward import FeedForward
from llm_jax.layers.linear import Linear
from llm_jax.layers.norm import LayerNorm
from llm_jax.layers.norm_gradient import STATISTICS
from llm_jax.layers.recompute import checkpoint
from llm_jax.parallel.rules import constrain

Terms = tuple[str, ...]  # of 'c2p' (content to position) and 'p2c' (position to content)


def buckets_of(distances: np.ndarray, buckets: int, longest: int) -> np.ndarray:
  """Distances with those beyond buckets / 2 in logarithmic steps up to `longest` (He et al. 2021, section 3.1.1)."""
  middle = buckets // 2
  near = np.abs(distances) <= middle
  far = np.where(near, middle + 1, np.abs(distances)).astype(np.float32) / np.float32(middle)
  with np.errstate(divide="ignore"):  # where nothing is far
    steps = np.log(far) / np.log(np.float32((longest - 1) / middle)) * np.float32(middle - 1)
  return np.where(near, distances, (np.minimum(np.ceil(steps), buckets) + middle) * np.sign(distances)).astype(np.int64)


def table_rows(length: int, span: int, buckets: int, longest: int) -> np.ndarray:
  """(2 L - 1,) the row of the table (2 * span rows) for each distance i - j from L - 1 down to 1 - L.

  Args:
    length: L. span: distances or buckets on either side. buckets: number of log buckets, -1 for none. longest: the
      distance that the last bucket ends at.
  """
  distances = np.arange(length - 1, -length, -1)
  steps = buckets_of(distances, buckets, longest) if buckets > 0 else distances
  return np.clip(steps + span, 0, 2 * span - 1)


def shifted(x_BHLT: jax.Array) -> jax.Array:
  """(B, H, L, 2 L - 1) by distance -> (B, H, L, L): row i takes its columns from L - 1 - i on."""
  B, H, L, T = x_BHLT.shape
  flat = jnp.pad(x_BHLT, ((0, 0), (0, 0), (0, 0), (0, 1))).reshape(B, H, L * (T + 1))
  return flat[..., L - 1:L - 1 + L * T].reshape(B, H, L, T)[..., :L]


class DisentangledAttention(nnx.Module):
  """Self-attention (B, L, D) -> (B, L, D) whose queries may come from another stream than its keys and values.

  Args of the constructor:
    terms: the scores with positions. relative: whether there are relative positions at all; the scale counts the terms
      in any case. shared: positions go through the projections of the content (versions 2 and 3). key_bias: biases of
      keys, of content and of positions; version 1 has none.
  """

  def __init__(self, rngs: nnx.Rngs, width: int, heads: int, *, terms: Terms, relative: bool, shared: bool,
               key_bias: bool, options: AttentionOptions):
    self.terms, self.shared, self.options = terms if relative else (), shared, options
    self.scale = (width // heads * (1 + len(terms))) ** -0.5
    def projection(bias: bool) -> Linear:
      return Linear(rngs, {"embed": width}, {"heads": heads, "head": width // heads}, bias=bias)
    self.query, self.key, self.value = projection(True), projection(key_bias), projection(True)
    self.position_key = projection(key_bias) if "c2p" in self.terms and not shared else None
    self.position_query = projection(True) if "p2c" in self.terms and not shared else None
    self.out = Linear(rngs, {"heads": heads, "head": width // heads}, {"embed": width})

  def project(self, query_BLD: jax.Array, x_BLD: jax.Array) -> tuple[jax.Array, ...]:
    """-> q, k, v, each (B, L, H, K)."""
    pin = lambda y: constrain(y, "batch", "length", "heads", "head")
    return pin(self.query(query_BLD)), pin(self.key(x_BLD)), pin(self.value(x_BLD))

  def positions(self, table_ID: jax.Array | None, rows_T: np.ndarray) -> dict[str, jax.Array]:
    """{term: (T, H, K)}: the table through the projection of each term, one vector per distance."""
    keys = self.key if self.shared else self.position_key
    queries = self.query if self.shared else self.position_query
    made: dict[str, Any] = {"c2p": keys, "p2c": queries}
    return {term: made[term](table_ID)[rows_T] for term in self.terms}

  def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, positions: dict[str, jax.Array], visibility: Visibility,
             key: jax.Array | None = None) -> jax.Array:
    """Through the door -> (B, L, H, K)."""
    by_distance = lambda x, term, order: jnp.einsum("blhk,thk->bhlt", x, positions[term][::order],
                                                    preferred_element_type=jnp.float32)
    scores = []
    if "c2p" in positions:
      scores.append(shifted(by_distance(q, "c2p", 1)))
    if "p2c" in positions:
      scores.append(shifted(by_distance(k, "p2c", -1)).swapaxes(-1, -2))
    bias = sum(scores) * self.scale if scores else None
    return attend(q, k, v, visibility, scale=self.scale, bias_BHLM=bias, dropout_rate=self.options.dropout, key=key,
                  implementation=self.options.implementation)


class DisentangledBlock(nnx.Module):
  """One layer with norms after the residuals: (B, L, D) -> (B, L, D)."""

  def __init__(self, rngs: nnx.Rngs, width: int, attention: DisentangledAttention, feed_forward: FeedForward, *,
               epsilon: float, dropout: float, split_remat: bool = False):
    self.dropout, self.split_remat = dropout, split_remat
    self.attention, self.feed_forward = attention, feed_forward
    self.attention_norm = LayerNorm(rngs, width, epsilon=epsilon)
    self.feed_forward_norm = LayerNorm(rngs, width, epsilon=epsilon)

  def __call__(self, x_BLD: jax.Array, visibility: Visibility, table_ID: jax.Array | None, rows_T: np.ndarray,
               query_BLD: jax.Array | None = None, key: jax.Array | None = None) -> jax.Array:
    """The layer's output; query_BLD: what asks and what the residual carries, where it is not x (the mask decoder)."""
    query_BLD = x_BLD if query_BLD is None else query_BLD
    table_key, attention_key, *out_keys = split(key, 4)
    def before(self, query, x, table):
      table = table if table is None else dropout(table, self.dropout, table_key)
      return self.attention.project(query, x), self.attention.positions(table, rows_T)
    def after(self, query, attended):
      x = self.attention_norm(query + dropout(self.attention.out(attended), self.dropout, out_keys[0]))
      x = constrain(x, "batch", "length", "width")
      return self.feed_forward_norm(x + dropout(self.feed_forward(x), self.dropout, out_keys[1]))
    if self.split_remat:
      before, after = checkpoint(before, (STATISTICS,)), checkpoint(after, (STATISTICS,))
    (q, k, v), positions = before(self, query_BLD, x_BLD, table_ID)
    x = after(self, query_BLD, self.attention.attend(q, k, v, positions, visibility, attention_key))
    return constrain(x, "batch", "length", "width")
