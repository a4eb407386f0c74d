"""Convolutions along a row, and the highway layers that follow them in character models."""

import jax
from flax import nnx

from llm_jax.core.model import parameter
from llm_jax.layers.linear import Init, Linear, normal


class Convolution(nnx.Module):
  """(B, L, I) -> (B, L - width + 1, O): no padding, stride 1."""

  def __init__(self, rngs: nnx.Rngs, inputs: int, outputs: int, width: int, *, init: Init | None = None):
    self.kernel = parameter(rngs, (width, inputs, outputs), (None, "embed", "mlp"), init or normal(0.05))
    self.bias = parameter(rngs, (outputs,), ("mlp",), jax.nn.initializers.zeros)

  def __call__(self, x_BLI: jax.Array) -> jax.Array:
    y = jax.lax.conv_general_dilated(x_BLI, self.kernel[...].astype(x_BLI.dtype), (1,), "VALID",
                                     dimension_numbers=("NWC", "WIO", "NWC"))
    return y + self.bias[...].astype(y.dtype)


def max_pool(x_BLD: jax.Array, width: int) -> jax.Array:
  """(B, L, D) -> (B, L // width, D): the largest of each `width` neighbours; what is left over is dropped."""
  B, L, D = x_BLD.shape
  return x_BLD[:, :L // width * width].reshape(B, L // width, width, D).max(2)


class Highway(nnx.Module):
  """s * relu(transform(x)) + (1 - s) * x with s = sigmoid(gate(x)) (Srivastava et al. 2015).

  The gate's bias starts below zero, so that the layer starts as the identity (Kim et al. 2016: -2).
  """

  def __init__(self, rngs: nnx.Rngs, width: int, *, init: Init | None = None, gate_bias: float = -2.0):
    self.gate = Linear(rngs, {"embed": width}, {"mlp": width}, bias=False, init=init)
    self.gate_bias = parameter(rngs, (width,), ("mlp",), jax.nn.initializers.constant(gate_bias))
    self.transform = Linear(rngs, {"embed": width}, {"mlp": width}, init=init)

  def __call__(self, x: jax.Array) -> jax.Array:
    open_ = jax.nn.sigmoid(self.gate(x) + self.gate_bias[...].astype(x.dtype))
    return open_ * jax.nn.relu(self.transform(x)) + (1.0 - open_) * x
