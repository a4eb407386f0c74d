"""Normalisation over the last axis, computed in float32 whatever the residual stream's dtype."""

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.model import parameter


class LayerNorm(nnx.Module):
  """Ba et al. 2016: (x - mean) / sqrt(var + epsilon) * scale + bias."""

  def __init__(self, rngs: nnx.Rngs, width: int, *, epsilon: float = 1e-5, bias: bool = True):
    self.epsilon = epsilon
    self.scale = parameter(rngs, (width,), ("norm",), jax.nn.initializers.ones)
    self.bias = parameter(rngs, (width,), ("norm",), jax.nn.initializers.zeros) if bias else None

  def __call__(self, x: jax.Array) -> jax.Array:
    y = x.astype(jnp.float32)
    mean = y.mean(-1, keepdims=True)
    variance = jnp.square(y - mean).mean(-1, keepdims=True)
    y = (y - mean) * jax.lax.rsqrt(variance + self.epsilon) * self.scale[...]
    if self.bias is not None:
      y = y + self.bias[...]
    return y.astype(x.dtype)


class RMSNorm(nnx.Module):
  """Zhang and Sennrich 2019: x / rms(x) * scale. With `offset` the factor is 1 + scale (Gemma) and scale starts at 0."""

  def __init__(self, rngs: nnx.Rngs, width: int, *, epsilon: float = 1e-6, offset: bool = False, axis: str = "norm"):
    self.epsilon, self.offset = epsilon, offset
    start = jax.nn.initializers.zeros if offset else jax.nn.initializers.ones
    self.scale = parameter(rngs, (width,), (axis,), start)

  def __call__(self, x: jax.Array) -> jax.Array:
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
    return (y * (self.scale[...] + 1.0 if self.offset else self.scale[...])).astype(x.dtype)
