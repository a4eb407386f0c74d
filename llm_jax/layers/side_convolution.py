"""A convolution over tokens beside a transformer layer (DeBERTa 2's n-gram induced input encoding; He et al. 2021)."""

import jax
from flax import nnx

from llm_jax.core.model import parameter
from llm_jax.layers.dropout import dropout
from llm_jax.layers.feed_forward import activation
from llm_jax.layers.linear import normal
from llm_jax.layers.norm import LayerNorm
from llm_jax.layers.recompute import in_float32


class SideConvolution(nnx.Module):
  """norm(beside + act(convolution(x))), zero at padding: x, the layer's input, and beside, its output, are (B, L, D).

  size: tokens that a kernel covers, odd; groups: of channels that do not mix.
  """

  def __init__(self, rngs: nnx.Rngs, width: int, size: int, *, groups: int, act: str, epsilon: float, dropout: float):
    self.groups, self.act, self.dropout = groups, act, dropout
    self.kernel = parameter(rngs, (size, width // groups, width), (None, "embed", "width"), normal(0.02))
    self.bias = parameter(rngs, (width,), ("norm",), jax.nn.initializers.zeros)
    self.norm = LayerNorm(rngs, width, epsilon=epsilon)

  def __call__(self, x_BLD: jax.Array, beside_BLD: jax.Array, mask_BL: jax.Array | None,
               key: jax.Array | None = None) -> jax.Array:
    y = jax.lax.conv_general_dilated(x_BLD, self.kernel[...].astype(x_BLD.dtype), (1,), "SAME",
                                     dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=self.groups)
    y = y + self.bias[...].astype(y.dtype)
    mask = 1 if mask_BL is None else mask_BL[..., None].astype(y.dtype)
    y = in_float32(activation(self.act), dropout(y * mask, self.dropout, key))
    return self.norm(beside_BLD + y) * mask
