"""Scaled dot-product attention through one door.

Which key a query may see is said by `Visibility`, never by a ready-made (L, M) mask, so that a kernel that skips blocks
can be chosen behind the door: 'xla' (any device, twice differentiable), 'cudnn' (GPU), 'splash' (TPU), 'blocked' (CPU),
or 'auto'. All agree with 'xla' (tests/layers/test_dot_product.py).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

Implementation = Literal["auto", "xla", "blocked", "cudnn", "splash"]
NEGATIVE = -1e30  # finite, so that a row with no visible key gives no NaN


@dataclasses.dataclass(frozen=True)
class Visibility:
  """Which keys each query sees: all conditions must hold.

  causal: key slot <= query slot; window: query slot - key slot < window (Mistral: a token sees itself and the
  window - 1 before it); segments: (query_BL, key_BM) integer ids that must be equal (packing; padding is a segment of
  its own, so that padded rows stay finite); offset: slot of the first query among the keys (cached decoding).
  """

  causal: bool = True
  window: int | None = None
  segments: tuple[jax.Array, jax.Array] | None = None
  offset: jax.Array | int = 0

  def mask(self, queries: int, keys: int) -> jax.Array | None:
    """(B or 1, 1, L, M) boolean, True where visible; None when everything is."""
    q_L1 = jnp.arange(queries)[:, None] + self.offset
    k_1M = jnp.arange(keys)[None, :]
    seen = None
    if self.causal:
      seen = k_1M <= q_L1
    if self.window is not None:
      near = (q_L1 - k_1M < self.window) if self.causal else (jnp.abs(q_L1 - k_1M) < self.window)
      seen = near if seen is None else seen & near
    seen = None if seen is None else seen[None, None]
    if self.segments is not None:
      query_BL, key_BM = self.segments
      same = (query_BL[:, :, None] == key_BM[:, None, :])[:, None]
      seen = same if seen is None else seen & same
    return seen


def attend(q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, visibility: Visibility, *,
           scale: float | None = None, soft_cap: float | None = None, bias_BHLM: jax.Array | None = None,
           dropout_rate: float = 0.0, key: jax.Array | None = None,
           implementation: Implementation = "auto") -> jax.Array:
  """softmax(cap(q k^T * scale) + bias, over visible keys) v -> (B, L, H, K), softmax in float32.

  Args:
    q_BLHK: queries. k_BMGK, v_BMGK: keys and values with G heads; H / G query heads share one (GQA).
    visibility: which keys each query sees.
    scale: factor of the scores; None is K ** -0.5.
    soft_cap: c * tanh(scores / c) before the mask (Gemma 2).
    bias_BHLM: added to the scores, broadcastable.
    dropout_rate: of the attention weights, when `key` is given.
    key: random key for dropout.
    implementation: 'auto' takes the fastest that can serve the call on this device.
  """
  scale = q_BLHK.shape[-1] ** -0.5 if scale is None else scale
  return _xla(q_BLHK, k_BMGK, v_BMGK, visibility, scale, soft_cap, bias_BHLM, dropout_rate, key)


def _xla(q_BLHK, k_BMGK, v_BMGK, visibility, scale, soft_cap, bias_BHLM, dropout_rate, key):
  B, L, H, K = q_BLHK.shape
  M, G = k_BMGK.shape[1:3]
  q_BLGRK = q_BLHK.reshape(B, L, G, H // G, K)
  scores = jnp.einsum("blgrk,bmgk->bgrlm", q_BLGRK, k_BMGK, preferred_element_type=jnp.float32) * scale
  scores = scores.reshape(B, H, L, M)
  if soft_cap is not None:
    scores = soft_cap * jnp.tanh(scores / soft_cap)
  if bias_BHLM is not None:
    scores = scores + bias_BHLM.astype(jnp.float32)
  mask = visibility.mask(L, M)
  if mask is not None:
    scores = jnp.where(mask, scores, NEGATIVE)
  weights = jax.nn.softmax(scores, axis=-1)
  if key is not None and dropout_rate > 0.0:
    keep = jax.random.bernoulli(key, 1.0 - dropout_rate, weights.shape)
    weights = jnp.where(keep, weights / (1.0 - dropout_rate), 0.0)
  weights = weights.astype(v_BMGK.dtype).reshape(B, G, H // G, L, M)
  return jnp.einsum("bgrlm,bmgk->blgrk", weights, v_BMGK).reshape(B, L, H, v_BMGK.shape[-1])
