"""What one call of the attention door asks for, in the terms that every implementation reads."""

import dataclasses

import jax
import jax.numpy as jnp

NEGATIVE = -1e30  # a masked score: finite, so that a row with no visible key gives no NaN


@dataclasses.dataclass(frozen=True)
class Visibility:
  """Which keys each query sees: all conditions must hold.

  causal: key slot <= query slot, or below `prefix` (B,), where there is one; window: query slot - key slot < window
  (Mistral: a token sees itself and the window - 1 before it); segments: (query_BL, key_BM) integer ids that must be
  equal (packing; padding is a segment of its own, so that padded rows stay finite); offset: slot of the first query
  among the keys (cached decoding); pairs: (B or 1, L, M) boolean, True where visible, for what nothing shorter
  describes (a permutation); shared: so many first keys have no segment, every query sees them (virtual tokens).
  """

  causal: bool = True
  window: int | None = None
  segments: tuple[jax.Array, jax.Array] | None = None
  offset: jax.Array | int = 0
  pairs: jax.Array | None = None
  prefix: jax.Array | None = None
  shared: int = 0

  def mask(self, queries: int, keys: int) -> jax.Array | None:
    """(B or 1, 1, L, M) boolean, True where visible; None when everything is."""
    q_L1 = jnp.arange(queries)[:, None] + self.offset
    k_1M = jnp.arange(keys)[None, :]
    seen = None
    if self.causal:
      seen = k_1M <= q_L1
    seen = None if seen is None else seen[None, None]
    if seen is not None and self.prefix is not None:
      seen = seen | (k_1M < self.prefix[:, None, None, None])
    if self.window is not None:
      near = (q_L1 - k_1M < self.window) if self.causal else (jnp.abs(q_L1 - k_1M) < self.window)
      seen = near[None, None] if seen is None else seen & near
    if self.segments is not None:
      query_BL, key_BM = self.segments
      same = (query_BL[:, :, None] == key_BM[:, None, :])[:, None]
      same = same | (k_1M < self.shared) if self.shared else same
      seen = same if seen is None else seen & same
    if self.pairs is not None:
      seen = self.pairs[:, None] if seen is None else seen & self.pairs[:, None]
    return seen


@dataclasses.dataclass(frozen=True)
class AttentionCall:
  """The arguments of `attend` (layers/dot_product.py): q (B, L, H, K), k and v (B, M, G, K), bias (B, H, L, M) or
  broadcastable; scale is filled in; dropout_rate is 0 when there is no key."""

  q: jax.Array
  k: jax.Array
  v: jax.Array
  visibility: Visibility
  scale: float
  soft_cap: float | None
  bias: jax.Array | None
  dropout_rate: float
  key: jax.Array | None

  def beyond_kernels(self) -> str | None:
    """Why no fused kernel can serve this call; None if one may."""
    if self.bias is not None:
      return "a bias on the scores"
    if self.visibility.prefix is not None:
      return "a prefix that is read from both sides"
    if self.visibility.pairs is not None:
      return "a mask of single pairs"
    if self.visibility.shared:
      return "keys that all documents of a row share"
    if self.dropout_rate > 0.0:
      return "dropout of attention weights"
    if not isinstance(self.visibility.offset, int) or self.visibility.offset != 0:
      return "cached decoding"
    if self.q.shape[1] != self.k.shape[1]:
      return f"{self.q.shape[1]} queries over {self.k.shape[1]} keys"
    return None
