"""One transformer layer: attention and feed-forward, each with its residual, norms before, after or around them."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.layers import cache as kv
from llm_jax.layers.attention import Attention
from llm_jax.layers.dot_product import Visibility
from llm_jax.layers.dropout import dropout, split
from llm_jax.parallel.rules import constrain

Norms = Literal["pre", "post", "sandwich"]
Rotation = tuple[jax.Array, jax.Array] | None


class Block(nnx.Module):
  """(B, L, D) -> (B, L, D).

  Args of the constructor:
    norm: makes one norm over D. attention, feed_forward: the two halves; None where the call brings the second.
    norms: 'pre' x + f(norm(x)) (GPT-2, Llama); 'post' norm(x + f(x)) (GPT-1, BERT); 'sandwich' x + norm(f(norm(x)))
      (Gemma 2). dropout: of each half's output. split_remat: checkpoint the two halves around attention, whose own
      residuals are then kept and whose kernel is not run again in the backward pass.
  """

  def __init__(self, norm: Callable[[], nnx.Module], attention: Attention, feed_forward: nnx.Module | None, *,
               norms: Norms = "pre", dropout: float = 0.0, split_remat: bool = False):
    self.norms, self.dropout, self.split_remat = norms, dropout, split_remat
    self.attention_norm, self.attention = norm(), attention
    self.feed_forward_norm, self.feed_forward = norm(), feed_forward
    self.attention_out_norm = norm() if norms == "sandwich" else None
    self.feed_forward_out_norm = norm() if norms == "sandwich" else None

  def __call__(self, x_BLD: jax.Array, visibility: Visibility, rotation: Rotation = None, cache: kv.Cache | None = None,
               layer: jax.Array | int = 0, query_factor: jax.Array | float | None = None,
               key: jax.Array | None = None) -> tuple[jax.Array, kv.Cache | None]:
    """-> (x after this layer, cache with this layer's keys and values); query_factor multiplies this layer's scores."""
    x_BLD, cache, _ = self.run(x_BLD, visibility, rotation, cache, layer, query_factor, key)
    return x_BLD, cache

  def run(self, x_BLD: jax.Array, visibility: Visibility, rotation: Rotation = None, cache: kv.Cache | None = None,
          layer: jax.Array | int = 0, query_factor: jax.Array | float | None = None, key: jax.Array | None = None,
          feed_forward: nnx.Module | None = None,
          inputs: Mapping[str, Any] | None = None) -> tuple[jax.Array, kv.Cache | None, tuple]:
    """As the call, with what the feed-forward half says beside its output (experts): () if nothing.

    feed_forward: instead of the block's own; inputs: its further keyword arguments.
    """
    attention_key, *out_keys = split(key, 3)
    before, after = Block._before, Block._after
    if self.split_remat:
      before, after = jax.checkpoint(before), jax.checkpoint(after)
    q, k, v = before(self, x_BLD, rotation)
    q = q if query_factor is None else q * jnp.asarray(query_factor, q.dtype)
    if cache is not None:
      k, v, cache = kv.write(cache, layer, k, v)
    attended = self.attention.attend(q, k, v, visibility, attention_key)
    feed_forward = self.feed_forward if feed_forward is None else feed_forward
    x_BLD, said = after(self, x_BLD, attended, tuple(out_keys), feed_forward, dict(inputs or {}))
    return x_BLD, cache, said

  def _before(self, x: jax.Array, rotation: Rotation) -> tuple[jax.Array, ...]:
    return self.attention.project(x if self.norms == "post" else self.attention_norm(x), rotation)

  def _after(self, x: jax.Array, attended: jax.Array, keys: tuple[jax.Array | None, ...], feed_forward: Any,
             inputs: dict[str, Any]) -> tuple[jax.Array, tuple]:
    x = self._residual(x, self.attention.out(attended), self.attention_norm, self.attention_out_norm, keys[0])
    inner = feed_forward(x if self.norms == "post" else self.feed_forward_norm(x), **inputs)
    inner, said = (inner[0], inner[1:]) if isinstance(inner, tuple) else (inner, ())
    return self._residual(x, inner, self.feed_forward_norm, self.feed_forward_out_norm, keys[1]), said

  def _residual(self, x: jax.Array, y: jax.Array, norm: nnx.Module, out_norm: nnx.Module | None,
                key: jax.Array | None) -> jax.Array:
    y = y if out_norm is None else out_norm(y)
    x = constrain(x + dropout(y, self.dropout, key), "batch", "length", "width")
    return norm(x) if self.norms == "post" else x
