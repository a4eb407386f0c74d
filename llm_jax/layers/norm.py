"""Normalisation over the last axis, computed in float32 whatever the residual stream's dtype."""

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.derivatives import plain
from llm_jax.core.model import parameter
from llm_jax.layers import norm_gradient
from llm_jax.layers.doors import tpu_forms
from llm_jax.layers.recompute import in_float32


class LayerNorm(nnx.Module):
  """Ba et al. 2016: (x - mean) / sqrt(var + epsilon) * scale + bias."""

  def __init__(self, rngs: nnx.Rngs, width: int, *, epsilon: float = 1e-5, bias: bool = True):
    self.epsilon = epsilon
    self.scale = parameter(rngs, (width,), ("norm",), jax.nn.initializers.ones)
    self.bias = parameter(rngs, (width,), ("norm",), jax.nn.initializers.zeros) if bias else None

  def __call__(self, x: jax.Array) -> jax.Array:
    bias = None if self.bias is None else self.bias[...]
    if not plain():
      return norm_gradient.norm(x, self.scale[...], bias, self.epsilon, True, tpu_forms())
    def norm(x: jax.Array, scale: jax.Array, bias: jax.Array | None) -> jax.Array:
      mean = x.mean(-1, keepdims=True)
      variance = jnp.square(x - mean).mean(-1, keepdims=True)
      y = (x - mean) * jax.lax.rsqrt(variance + self.epsilon) * scale
      return y if bias is None else y + bias
    return in_float32(norm, x, self.scale[...], bias)


class RMSNorm(nnx.Module):
  """Zhang and Sennrich 2019: x / rms(x) * scale. With `offset` it is 1 + scale (Gemma), scale starting at 0."""

  def __init__(self, rngs: nnx.Rngs, width: int, *, epsilon: float = 1e-6, offset: bool = False, axis: str = "norm"):
    self.epsilon, self.offset = epsilon, offset
    start = jax.nn.initializers.zeros if offset else jax.nn.initializers.ones
    self.scale = parameter(rngs, (width,), (axis,), start)

  def __call__(self, x: jax.Array) -> jax.Array:
    if not plain():
      scale = self.scale[...]
      return norm_gradient.norm(x, scale + 1.0 if self.offset else scale, None, self.epsilon, False)
    def norm(x: jax.Array, scale: jax.Array) -> jax.Array:
      y = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
      return y * (scale + 1.0 if self.offset else scale)
    return in_float32(norm, x, self.scale[...])
