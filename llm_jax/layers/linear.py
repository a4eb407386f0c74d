"""Linear maps between named axes: `Linear(rngs, {'embed': D}, {'heads': H, 'head': K})` has a (D, H, K) kernel.

The kernel is float32 and is cast to the dtype of the input; the bias is added in that dtype.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.model import elementwise_normal, parameter
from llm_jax.layers import linear_cpu
from llm_jax.layers.doors import cpu_forms

Init = jax.nn.initializers.Initializer
normal = elementwise_normal


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
  """(..., I) times (I, O) plus (O,) in the dtype of `x`: the form that is fast on this platform (see linear_cpu.py)."""
  if cpu_forms():
    return linear_cpu.affine(x.reshape(-1, x.shape[-1]), kernel, bias).reshape(*x.shape[:-1], kernel.shape[-1])
  y = x @ kernel.astype(x.dtype)
  return y if bias is None else y + bias.astype(y.dtype)


class Linear(nnx.Module):
  """x (..., *in) -> (..., *out); one contraction over all input axes."""

  def __init__(self, rngs: nnx.Rngs, inputs: Mapping[str, int], outputs: Mapping[str, int], *, bias: bool = True,
               init: Init | None = None):
    self.inputs, self.outputs = tuple(inputs.values()), tuple(outputs.values())
    init = init or normal(0.02)
    self.kernel = parameter(rngs, self.inputs + self.outputs, tuple(inputs) + tuple(outputs), init)
    self.bias = parameter(rngs, self.outputs, tuple(outputs), jax.nn.initializers.zeros) if bias else None

  def __call__(self, x: jax.Array) -> jax.Array:
    lead = x.shape[: x.ndim - len(self.inputs)]
    rows, columns = math.prod(self.inputs), math.prod(self.outputs)
    bias = None if self.bias is None else self.bias[...].reshape(columns)
    y = linear(x.reshape(*lead, rows), self.kernel[...].reshape(rows, columns), bias)
    return jnp.reshape(y, (*lead, *self.outputs))
