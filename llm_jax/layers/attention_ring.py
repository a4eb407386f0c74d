"""Attention over a sequence that the mesh cuts: keys and values go round, each device keeps its queries (Liu et al.
2023, Ring Attention). No device ever holds the keys of the whole sequence, so memory falls as 1 / n.

Softmax is accumulated block by block in float32 (Milakov and Gimelshein 2018). Causal sequences are shared in zigzag
order (parallel/ring.py): at every turn each device computes two blocks of chunk by chunk, and none that is hidden. The
backward pass goes round once more with the gradients of keys and values, from the saved output and log-sums.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llm_jax.core.derivatives import plain
from llm_jax.layers.attention_call import NEGATIVE, AttentionCall
from llm_jax.parallel import ring
from llm_jax.parallel.shard import per_shard, ways

MOST_KEYS = 1024  # scores of a device: its queries by so many keys at once


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is known when tracing. axis, ways: of the ring; chunks: that a device holds, 2 in zigzag order, else 1."""

  axis: str
  ways: int
  chunks: int
  causal: bool
  window: int | None
  scale: float
  soft_cap: float | None


class Part(NamedTuple):
  """Keys and values of one device's chunks, (P, B, G, c, K), and their segment ids (P, B, c) or None."""

  k: jax.Array
  v: jax.Array
  segments: jax.Array | None


class Sums(NamedTuple):
  """Of each query chunk so far: highest score, sum of weights, both (P, B, G, R, c), and weighted values (..., K)."""

  top: jax.Array
  total: jax.Array
  out: jax.Array


def problem(call: AttentionCall) -> str | None:
  """Why the ring cannot serve this call; None if it can."""
  if (reason := call.beyond_kernels()) is not None:
    return f"it has no {reason}"
  if plain():
    return "it has first derivatives only"
  _, parts = ring.axis_of_length(call.q.shape[1])
  if call.visibility.causal and call.q.shape[1] % (2 * parts):
    return f"length {call.q.shape[1]} is not a multiple of {2 * parts}, twice the parts"
  return None


def attend(call: AttentionCall) -> jax.Array:
  """-> (B, L, H, K), cut over the mesh as the queries are."""
  see = call.visibility
  axis, count = ring.axis_of_length(call.q.shape[1])
  s = Settings(axis, count, 2 if see.causal else 1, see.causal, see.window, call.scale, call.soft_cap)
  k, v, key_axis = call.k, call.v, "kv_heads"
  H, G = call.q.shape[2], k.shape[2]
  if ways("heads", H) != ways("kv_heads", G):  # too few key heads to split as the queries are: give each its own copy
    k, v, key_axis = jnp.repeat(k, H // G, 2), jnp.repeat(v, H // G, 2), "heads"
  keys = ("batch", "length", key_axis, None)
  axes = [("batch", "length", "heads", None), keys, keys, ("batch", "length"), ("batch", "length")]
  arrays = (call.q, k, v, *(see.segments or ()))
  return per_shard(partial(_local, s), axes[:len(arrays)], axes[0])(*arrays)


def _local(s: Settings, q: jax.Array, k: jax.Array, v: jax.Array, *segments: jax.Array) -> jax.Array:
  """This device's part of the sequence, in order, (B, l, H, K) -> (B, l, H, K)."""
  G = k.shape[2]
  place = (lambda x: ring.to_zigzag(x, s.axis, s.ways)) if s.chunks == 2 else (lambda x: x[None])
  q_PBlHK, *rest = map(place, (q, k, v, *segments))
  P, B, c, H, K = q_PBlHK.shape
  q_ = q_PBlHK.reshape(P, B, c, G, H // G, K).transpose(0, 1, 3, 4, 2, 5)
  part = Part(rest[0].swapaxes(2, 3), rest[1].swapaxes(2, 3), rest[3] if segments else None)
  out = _ring(s, q_, part, rest[2] if segments else None)
  out = out.transpose(0, 1, 4, 2, 3, 5).reshape(P, B, c, H, -1)
  return ring.from_zigzag(out, s.axis, s.ways) if s.chunks == 2 else out[0]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(s: Settings, q: jax.Array, part: Part, segments: jax.Array | None) -> jax.Array:
  """q (P, B, G, R, c, K) -> the same shape."""
  return _forward(s, q, part, segments)[0]


def _forward(s: Settings, q, part: Part, segments):
  here = ring.position(s.axis)
  start = Sums(jnp.full(q.shape[:-1], NEGATIVE, jnp.float32), jnp.zeros(q.shape[:-1], jnp.float32),
               jnp.zeros((*q.shape[:-1], part.v.shape[-1]), jnp.float32))
  add = lambda sums, part, pairs, source: _each(pairs, sums, partial(_add, s, q, part, segments, here, source))
  sums = add(start, part, _own_pairs(s), here)
  def turn(carry: tuple[Part, Sums], step: jax.Array):
    part = ring.shift(carry[0], s.axis, s.ways)
    source = (here - step) % s.ways
    return (part, add(carry[1], part, _pairs(s, here, source), source)), None
  (_, sums), _ = jax.lax.scan(turn, (part, sums), jnp.arange(1, s.ways))
  out = (sums.out / sums.total[..., None]).astype(q.dtype)
  return out, (q, part, segments, out, sums.top + jnp.log(sums.total))


def _backward(s: Settings, saved, do):
  q, part, segments, out, log_sum = saved
  here = ring.position(s.axis)
  delta = (do.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1)
  zeros = lambda x: jnp.zeros(x.shape, jnp.float32)
  add = lambda grads, part, pairs, source: _each(pairs, grads, partial(
      _add_gradients, s, (q, do, log_sum, delta), part, segments, here, source))
  grads = add((zeros(q), zeros(part.k), zeros(part.v)), part, _own_pairs(s), here)
  def turn(carry, step: jax.Array):
    part, (dq, dk, dv) = carry
    part, dk, dv = ring.shift((part, dk, dv), s.axis, s.ways)
    source = (here - step) % s.ways
    return (part, add((dq, dk, dv), part, _pairs(s, here, source), source)), None
  (_, (dq, dk, dv)), _ = jax.lax.scan(turn, (part, grads), jnp.arange(1, s.ways))
  dk, dv = ring.shift((dk, dv), s.axis, s.ways)  # home
  return dq.astype(q.dtype), Part(dk.astype(part.k.dtype), dv.astype(part.v.dtype), None), None


_ring.defvjp(_forward, _backward)


def _own_pairs(s: Settings) -> list[tuple[Any, Any]]:
  """(query chunk, key chunk) with something to see, both of one device."""
  return [(0, 0)] if s.chunks == 1 else [(0, 0), (1, 0), (1, 1)]


def _pairs(s: Settings, here: jax.Array, source: jax.Array) -> list[tuple[Any, Any]]:
  """The same with the key chunks of another device: its low one is seen by the high one here, and what else is seen is
  low by low if it comes before this device, high by high if after."""
  if s.chunks == 1:
    return [(0, 0)]
  later = (source > here).astype(jnp.int32)
  return [(1, 0), (later, later)]


def _each(pairs, sums, add):
  for query, key in pairs:
    sums = add(query, key, sums)
  return sums


def _add(s: Settings, q, part: Part, segments, here, source, query, key, sums: Sums) -> Sums:
  """The sums after the queries of one chunk have seen the keys of one chunk, some keys at a time."""
  v_all = _at(part.v, key)
  def see(rows: Sums, first: jax.Array) -> tuple[Sums, None]:
    top, total, out = rows
    scores, _ = _scores(s, q, part, segments, here, source, query, key, first)
    new_top = jnp.maximum(top, scores.max(-1))
    weights, shrink = jnp.exp(scores - new_top[..., None]), jnp.exp(top - new_top)
    v = _some(v_all, first)
    out = out * shrink[..., None] + _dot("bgrqk,bgkv->bgrqv", weights.astype(v.dtype), v)
    return Sums(new_top, total * shrink + weights.sum(-1), out), None
  new, _ = jax.lax.scan(see, Sums(*(_at(x, query) for x in sums)), _firsts(v_all))
  return Sums(*(x.at[query].set(rows) for x, rows in zip(sums, new)))


def _add_gradients(s: Settings, saved, part: Part, segments, here, source, query, key, grads):
  """The gradients of queries, keys and values after one pair of chunks (Dao et al. 2022, algorithm 4)."""
  q_all, *rows = saved
  q, (do, log_sum, delta) = _at(q_all, query), (_at(x, query) for x in rows)
  k_all, v_all = _at(part.k, key), _at(part.v, key)
  def see(dq: jax.Array, first: jax.Array):
    k, v = _some(k_all, first), _some(v_all, first)
    scores, slope = _scores(s, q_all, part, segments, here, source, query, key, first)
    weights = jnp.exp(scores - log_sum[..., None])
    dscores = weights * (_dot("bgrqv,bgkv->bgrqk", do, v) - delta[..., None]) * slope
    dscores = (dscores * s.scale).astype(q.dtype)
    dk = _dot("bgrqk,bgrqc->bgkc", dscores, q)
    return dq + _dot("bgrqk,bgkc->bgrqc", dscores, k), (dk, _dot("bgrqk,bgrqv->bgkv", weights.astype(do.dtype), do))
  own, (dks, dvs) = jax.lax.scan(see, jnp.zeros(q.shape, jnp.float32), _firsts(v_all))
  whole = lambda parts: jnp.moveaxis(parts, 0, 2).reshape(*parts.shape[1:3], -1, parts.shape[-1])  # (n, B, G, b, K)
  dq, dk, dv = grads
  return dq.at[query].add(own), dk.at[key].add(whole(dks)), dv.at[key].add(whole(dvs))


def _firsts(x_BGcK: jax.Array) -> jax.Array:
  """Where each of the blocks of keys begins that a chunk is seen in."""
  return jnp.arange(0, x_BGcK.shape[2], _block(x_BGcK.shape[2]))


def _block(width: int) -> int:
  """The largest divisor of a chunk's width up to MOST_KEYS."""
  return next(b for b in range(min(MOST_KEYS, width), 0, -1) if width % b == 0)


def _some(x: jax.Array, first: jax.Array, axis: int = 2) -> jax.Array:
  return jax.lax.dynamic_slice_in_dim(x, first, _block(x.shape[axis]), axis)


def _scores(s: Settings, q_all, part: Part, segments, here, source, query, key,
            first: jax.Array) -> tuple[jax.Array, jax.Array | float]:
  """Masked scores (B, G, R, c, b) of a chunk of queries and a block of keys, and the slope of their cap."""
  scores = _dot("bgrqc,bgkc->bgrqk", _at(q_all, query), _some(_at(part.k, key), first)) * s.scale
  slope: jax.Array | float = 1.0
  if s.soft_cap is not None:
    bent = jnp.tanh(scores / s.soft_cap)
    scores, slope = s.soft_cap * bent, 1.0 - jnp.square(bent)
  seen = jnp.ones((), bool)
  width = q_all.shape[-2]
  if s.causal or s.window is not None:
    keys = _start(s, source, key, width) + first + jnp.arange(_block(width))
    distance = (_start(s, here, query, width) + jnp.arange(width))[:, None] - keys[None, :]
    if s.causal:
      seen = seen & (distance >= 0)
    if s.window is not None:
      seen = seen & ((distance if s.causal else jnp.abs(distance)) < s.window)
  if segments is not None and part.segments is not None:
    same = _at(segments, query)[:, :, None] == _some(_at(part.segments, key), first, 1)[:, None, :]
    seen = seen & same[:, None, None]
  return jnp.where(seen, scores, NEGATIVE), slope


def _start(s: Settings, device: jax.Array, chunk: Any, width: int) -> jax.Array:
  """Slot of the first token of a device's chunk."""
  if s.chunks == 1:
    return device * width
  return jnp.where(jnp.asarray(chunk) == 0, device, 2 * s.ways - 1 - device) * width


def _at(x: jax.Array, chunk: Any) -> jax.Array:
  return x[chunk] if isinstance(chunk, int) else jax.lax.dynamic_index_in_dim(x, chunk, keepdims=False)


def _dot(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)
