"""Causal attention in blocks for the CPU: skips what no query sees and never holds all scores at once.

The forward pass goes over blocks of queries, each against the keys that it may see, and keeps the log of each softmax
denominator; the backward pass goes over blocks of keys and computes the weights again from it (FlashAttention-2, Dao
2023, section 3.1). There it works on transposed scores (keys, queries), because XLA's CPU backend runs products that
contract the leading dimension at half of its peak. Query heads that share a key head are rows of one product.

XLA's CPU backend shares a product with a batch dimension badly among threads (two need 0.8 to 1.1 times what one does),
but runs operations that do not wait for each other side by side. So the batch is cut into a part for each thread: 3 %
of a training step in bfloat16 at (8, 256, 384) with two threads; in float32 it gains nothing and is not done.
"""

import dataclasses
import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp

from llm_jax.core.devices import threads
from llm_jax.layers.attention_call import NEGATIVE, AttentionCall
from llm_jax.layers.doors import cpu_forms

SMALLEST_BLOCK = 64
MOST_BLOCKS = 16  # the loops over blocks and parts are unrolled: bounds the compile time
MOST_PARTS = 8


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is known when tracing: see layers/dot_product.py for the meaning."""

  causal: bool
  window: int | None
  scale: float
  soft_cap: float | None
  block: int
  parts: int = 1

  def keys_of(self, start: int, stop: int, length: int) -> tuple[int, int]:
    """The keys that queries start .. stop - 1 may see."""
    first = 0 if self.window is None else max(0, start - self.window + 1)
    if self.causal:
      return first, stop
    return first, length if self.window is None else min(length, stop + self.window - 1)

  def queries_of(self, start: int, stop: int, length: int) -> tuple[int, int]:
    """The queries that may see one of the keys start .. stop - 1."""
    last = length if self.window is None else min(length, stop + self.window - 1)
    if self.causal:
      return start, last
    return 0 if self.window is None else max(0, start - self.window + 1), last

  def blocks(self, length: int, joined: int = 1) -> list[tuple[int, int]]:
    size = joined * self.block
    return [(i, min(i + size, length)) for i in range(0, length, size)]


def block_size(length: int) -> int:
  """SMALLEST_BLOCK, or the multiple of it that makes at most MOST_BLOCKS blocks."""
  return SMALLEST_BLOCK * max(1, math.ceil(length / (MOST_BLOCKS * SMALLEST_BLOCK)))


def problem(call: AttentionCall) -> str | None:
  """Why this form cannot serve the call; None if it can."""
  reason = call.beyond_kernels()
  return None if reason is None else f"it has no {reason}"


def pays(call: AttentionCall) -> bool:
  """Whether there is something to skip: with one block the plain form is as fast."""
  see = call.visibility
  return (see.causal or see.window is not None) and call.q.shape[1] > SMALLEST_BLOCK


def attend(call: AttentionCall) -> jax.Array:
  """-> (B, L, H, K)."""
  see = call.visibility
  B, L = call.q.shape[:2]
  parts = min(B, MOST_PARTS, threads()) if cpu_forms() and call.q.dtype != jnp.float32 else 1
  settings = Settings(see.causal, see.window, call.scale, call.soft_cap, block_size(L), parts)
  return _attend(settings, call.q, call.k, call.v, see.segments)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(s: Settings, q, k, v, segments):
  return _forward(s, q, k, v, segments)[0]


def _in_parts(s: Settings, function, *arrays) -> list:
  """The results of `function` for each part of the rows of (B, ...) arrays."""
  rows = arrays[0].shape[0]
  cuts = [rows * i // s.parts for i in range(s.parts + 1)]
  of = lambda part, a: a if a.shape[0] == 1 else a[part]
  return [function(s, *jax.tree.map(partial(of, slice(*part)), arrays)) for part in itertools.pairwise(cuts)]


def _forward(s: Settings, q, k, v, segments):
  out, log_sum = map(jnp.concatenate, zip(*_in_parts(s, _forward_part, q, k, v, segments)))
  out = out.transpose(0, 3, 1, 2, 4).reshape(*q.shape[:3], v.shape[-1])
  return out, (q, k, v, segments, out, log_sum)


def _forward_part(s: Settings, q, k, v, segments):
  """Attention of some rows (B, G, R, L, K), and the logs of the softmax denominators (B, G, R, L)."""
  B, L, H, _ = q.shape
  G = k.shape[2]
  q_, k_, v_ = _by_head(q, G), _by_head(k, G)[:, :, 0], _by_head(v, G)[:, :, 0]
  outs, log_sums = [], []
  for start, stop in s.blocks(L, joined=2):  # fewer and larger products, which two threads share better
    first, last = s.keys_of(start, stop, L)
    rows = _rows(q_[:, :, :, start:stop])
    scores = _capped(s, _dot("bgrk,bgmk->bgrm", rows, k_[:, :, first:last]))
    scores = scores.reshape(B, G, H // G, stop - start, last - first)
    mask = _mask(s, segments, (start, stop), (first, last))
    scores = scores if mask is None else jnp.where(mask, scores, NEGATIVE)
    top = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    out = _dot("bgrm,bgmk->bgrk", _rows(weights.astype(v.dtype)), v_[:, :, first:last])
    outs.append(out.reshape(B, G, H // G, stop - start, -1) / total)
    log_sums.append((top + jnp.log(total))[..., 0])
  return jnp.concatenate(outs, 3).astype(q.dtype), jnp.concatenate(log_sums, 3)


def _backward(s: Settings, saved, do):
  dq, dk, dv = map(jnp.concatenate, zip(*_in_parts(s, _backward_part, *saved, do)))
  return dq.transpose(0, 4, 1, 3, 2).reshape(do.shape[:3] + dq.shape[2:3]), *(
      a.transpose(0, 2, 1, 3) for a in (dk, dv)), None


def _backward_part(s: Settings, q, k, v, segments, out, log_sum, do):
  """Gradients of q (B, G, K, R, L), k and v (B, G, L, K) of some rows."""
  B, L, H, K = q.shape
  G, R = k.shape[2], H // k.shape[2]
  q_, do_, k_, v_ = _by_head(q, G), _by_head(do, G), _by_head(k, G)[:, :, 0], _by_head(v, G)[:, :, 0]
  delta = (do.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1).reshape(B, L, G, R).transpose(0, 2, 3, 1)
  dq, k_KM = jnp.zeros((B, G, K, R, L), jnp.float32), k_.swapaxes(-1, -2)
  dks, dvs = [], []
  for start, stop in s.blocks(L):
    first, last = s.queries_of(start, stop, L)
    q_rows, do_rows = _rows(q_[:, :, :, first:last]), _rows(do_[:, :, :, first:last])
    row_log_sum, row_delta = (a[:, :, :, first:last].reshape(B, G, 1, -1) for a in (log_sum, delta))
    capped = _capped(s, _dot("bgmk,bgrk->bgmr", k_[:, :, start:stop], q_rows))
    weights = jnp.exp(capped - row_log_sum)
    mask = _mask(s, segments, (first, last), (start, stop))
    if mask is not None:
      keep = jnp.broadcast_to(mask, (mask.shape[0], 1, R, *mask.shape[3:])).swapaxes(-1, -2)  # (B, 1, R, keys, queries)
      keep = keep.swapaxes(2, 3).reshape(keep.shape[0], 1, stop - start, -1)
      weights = jnp.where(keep, weights, 0.0)
    dscores = weights * (_dot("bgmk,bgrk->bgmr", v_[:, :, start:stop], do_rows) - row_delta)
    dscores = dscores if s.soft_cap is None else dscores * (1.0 - jnp.square(capped / s.soft_cap))
    dscores = (dscores * s.scale).astype(q.dtype)
    dvs.append(_dot("bgmr,bgrk->bgmk", weights.astype(do.dtype), do_rows))
    dks.append(_dot("bgmr,bgrk->bgmk", dscores, q_rows))
    part = _dot("bgkm,bgmr->bgkr", k_KM[..., start:stop], dscores)
    dq = dq.at[..., first:last].add(part.reshape(B, G, K, R, last - first))
  return dq.astype(q.dtype), jnp.concatenate(dks, 2).astype(k.dtype), jnp.concatenate(dvs, 2).astype(v.dtype)


_attend.defvjp(_forward, _backward)


def _by_head(x_BLHK: jax.Array, groups: int) -> jax.Array:
  """(B, L, H, K) -> (B, G, H / G, L, K)."""
  B, L, H, K = x_BLHK.shape
  return x_BLHK.reshape(B, L, groups, H // groups, K).transpose(0, 2, 3, 1, 4)


def _rows(x: jax.Array) -> jax.Array:
  """(B, G, R, L, K) -> (B, G, R * L, K)."""
  return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _dot(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


def _capped(s: Settings, scores: jax.Array) -> jax.Array:
  scores = scores * s.scale
  return scores if s.soft_cap is None else s.soft_cap * jnp.tanh(scores / s.soft_cap)


def _mask(s: Settings, segments, queries: tuple[int, int], keys: tuple[int, int]) -> jax.Array | None:
  """(B or 1, 1, 1, queries, keys), True where visible; None when these queries see all of these keys."""
  (q0, q1), (k0, k1) = queries, keys
  q, k = jnp.arange(q0, q1)[:, None], jnp.arange(k0, k1)[None, :]
  seen = []
  if s.causal and k1 - 1 > q0:
    seen.append((k <= q)[None])
  if s.window is not None and q1 - 1 - k0 >= s.window:
    seen.append((q - k < s.window)[None])
  if s.window is not None and not s.causal and k1 - 1 - q0 >= s.window:
    seen.append((k - q < s.window)[None])
  if segments is not None:
    seen.append(segments[0][:, q0:q1, None] == segments[1][:, None, k0:k1])
  if not seen:
    return None
  mask = seen[0]
  for other in seen[1:]:
    mask = mask & other
  return mask[:, None, None]
