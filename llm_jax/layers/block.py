"""One transformer layer: attention and feed-forward, each with its residual, norms before, after or around them.

A decoder's layer may look at an encoder's states between the two (cross attention).
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.layers import cache as kv
from llm_jax.layers.attention import Attention
from llm_jax.layers.dot_product import Visibility
from llm_jax.layers.dropout import dropout, split
from llm_jax.layers.feed_forward import FeedForward
from llm_jax.layers.norm_gradient import STATISTICS
from llm_jax.layers.recompute import checkpoint
from llm_jax.parallel.rules import constrain

Norms = Literal["pre", "post", "sandwich"]
KEPT = (STATISTICS,)  # of the halves that are computed again
Rotation = tuple[jax.Array, jax.Array] | None


@dataclasses.dataclass(frozen=True)
class Memory:
  """What cross attention reads: the encoder's states (B, M, D), or this layer's keys and values of them, each
  (B, M, G, K), where they are kept between calls; visibility: which of them each query sees."""

  visibility: Visibility
  states: jax.Array | None = None
  kept: tuple[jax.Array, jax.Array] | None = None


class Block(nnx.Module):
  """(B, L, D) -> (B, L, D).

  Args of the constructor:
    norm: makes one norm over D. attention, feed_forward: the two halves; None where the call brings the second.
    norms: 'pre' x + f(norm(x)) (GPT-2, Llama); 'post' norm(x + f(x)) (GPT-1, BERT); 'sandwich' x + norm(f(norm(x)))
      (Gemma 2). dropout: of each half's output. remat: 'split' checkpoints the parts around attention, whose own
      residuals are then kept and whose kernel is not run again in the backward pass; 'split_wide' keeps the wide
      arrays of the feed-forward block too, so that none of its products is. Other policies are layers/stack.py's.
      cross_attention: reads `memory`, where there is one, after attention, with a norm and a residual of its own.
  """

  def __init__(self, norm: Callable[[], nnx.Module], attention: Attention, feed_forward: nnx.Module | None, *,
               norms: Norms = "pre", dropout: float = 0.0, remat: str = "none",
               cross_attention: Attention | None = None):
    self.norms, self.dropout, self.remat = norms, dropout, remat
    self.attention_norm, self.attention = norm(), attention
    self.feed_forward_norm, self.feed_forward = norm(), feed_forward
    self.attention_out_norm = norm() if norms == "sandwich" else None
    self.feed_forward_out_norm = norm() if norms == "sandwich" else None
    self.cross_attention: Any = cross_attention
    self.cross_norm: Any = None if cross_attention is None else norm()
    self.cross_out_norm = norm() if cross_attention is not None and norms == "sandwich" else None

  def __call__(self, x_BLD: jax.Array, visibility: Visibility, rotation: Rotation = None, cache: kv.Cache | None = None,
               layer: jax.Array | int = 0, query_factor: jax.Array | float | None = None,
               bias_BHLM: jax.Array | None = None, memory: Memory | None = None,
               key: jax.Array | None = None) -> tuple[jax.Array, kv.Cache | None]:
    """-> (x after this layer, cache with this layer's keys and values); query_factor multiplies this layer's scores,
    bias_BHLM is added to them; memory: what cross attention reads."""
    x_BLD, cache, _ = self.run(x_BLD, visibility, rotation, cache, layer, query_factor, key, bias_BHLM=bias_BHLM,
                               memory=memory)
    return x_BLD, cache

  def run(self, x_BLD: jax.Array, visibility: Visibility, rotation: Rotation = None, cache: kv.Cache | None = None,
          layer: jax.Array | int = 0, query_factor: jax.Array | float | None = None, key: jax.Array | None = None,
          feed_forward: nnx.Module | None = None, inputs: Mapping[str, Any] | None = None,
          bias_BHLM: jax.Array | None = None,
          memory: Memory | None = None) -> tuple[jax.Array, kv.Cache | None, tuple]:
    """As the call, with what the feed-forward half says beside its output (experts): () if nothing.

    feed_forward: instead of the block's own; inputs: its further keyword arguments.
    """
    attention_key, *keys = split(key, 6)
    crossed = self.cross_attention is not None and memory is not None
    before: Any = Block._before
    between: Any = Block._between
    after: Any = partial(Block._after, crossed=crossed)
    if self._cut:
      before, between, after = (checkpoint(part, KEPT) for part in (before, between, after))
    q, k, v = before(self, x_BLD, rotation)
    if self._cut:
      q, k, v = (a.transpose(0, 2, 1, 3) for a in (q, k, v))
    q = q if query_factor is None else q * jnp.asarray(query_factor, q.dtype)
    if cache is not None:
      k, v, cache = kv.write(cache, layer, k, v)
    attended = self.attention.attend(q, k, v, visibility, attention_key, bias_BHLM, self._cut)
    if crossed and memory is not None:
      x_BLD, q, kept = between(self, x_BLD, attended, memory.states, keys[2])
      attended = self.cross_attention.attend(q, *(memory.kept or kept), memory.visibility, keys[3],
                                             heads_first=self._cut)
    feed_forward = self.feed_forward if feed_forward is None else feed_forward
    further = dict(inputs or {}) | ({"key": keys[4]} if getattr(feed_forward, "dropout", 0.0) else {})
    if self.remat == "split_wide" and isinstance(feed_forward, FeedForward):
      after = partial(Block._after_in_two, crossed=crossed)
    x_BLD, said = after(self, x_BLD, attended, tuple(keys[:2]), feed_forward, further)
    return x_BLD, cache, said

  def _before(self, x: jax.Array, rotation: Rotation) -> tuple[jax.Array, ...]:
    q, k, v = self.attention.project(x if self.norms == "post" else self.attention_norm(x), rotation)
    return tuple(a.transpose(0, 2, 1, 3) for a in (q, k, v)) if self._cut else (q, k, v)

  def _between(self, x: jax.Array, attended: jax.Array, states: jax.Array | None, key: jax.Array | None) -> tuple:
    """-> (x after attention, queries of cross attention, its keys and values of `states`)."""
    x = self._residual(x, self.attention.out(self._rows(attended)), self.attention_norm, self.attention_out_norm, key)
    q = self.cross_attention.queries(x if self.norms == "post" else self.cross_norm(x))
    return x, q, None if states is None else self.cross_attention.keys_and_values(states)

  def _after(self, x: jax.Array, attended: jax.Array, keys: tuple[jax.Array | None, ...], feed_forward: Any,
             inputs: dict[str, Any], crossed: bool) -> tuple[jax.Array, tuple]:
    last = self._last(crossed)
    x = self._residual(x, last[0].out(self._rows(attended)), last[1], last[2], keys[0])
    inner = feed_forward(x if self.norms == "post" else self.feed_forward_norm(x), **inputs)
    inner, said = (inner[0], inner[1:]) if isinstance(inner, tuple) else (inner, ())
    return self._residual(x, inner, self.feed_forward_norm, self.feed_forward_out_norm, keys[1]), said

  def _after_in_two(self, x: jax.Array, attended: jax.Array, keys: tuple[jax.Array | None, ...],
                    feed_forward: FeedForward, inputs: dict[str, Any], crossed: bool) -> tuple[jax.Array, tuple]:
    """As `_after`, with the cut where the feed-forward block is widest."""
    def widen(self: Block, x: jax.Array, attended: jax.Array, key: jax.Array | None, feed_forward: FeedForward) -> Any:
      last = self._last(crossed)
      x = self._residual(x, last[0].out(self._rows(attended)), last[1], last[2], key)
      return x, feed_forward.expand(x if self.norms == "post" else self.feed_forward_norm(x))
    x, wide = checkpoint(widen, KEPT)(self, x, attended, keys[0], feed_forward)
    inner = checkpoint(FeedForward.contract)(feed_forward, wide, **inputs)
    return self._residual(x, inner, self.feed_forward_norm, self.feed_forward_out_norm, keys[1]), ()

  @property
  def _cut(self) -> bool:
    """Whether checkpoints end at attention; arrays then cross in the form that the kernel takes and keeps anyway."""
    return self.remat in ("split", "split_wide")

  def _rows(self, attended: jax.Array) -> jax.Array:
    return attended.transpose(0, 2, 1, 3) if self._cut else attended

  def _last(self, crossed: bool) -> Any:
    """The attention that feed-forward follows, its norm and the norm after it."""
    return ((self.cross_attention, self.cross_norm, self.cross_out_norm) if crossed else
            (self.attention, self.attention_norm, self.attention_out_norm))

  def _residual(self, x: jax.Array, y: jax.Array, norm: nnx.Module, out_norm: nnx.Module | None,
                key: jax.Array | None) -> jax.Array:
    y = y if out_norm is None else out_norm(y)
    x = constrain(x + dropout(y, self.dropout, key), "batch", "norm_length", "width")
    return norm(x) if self.norms == "post" else x
