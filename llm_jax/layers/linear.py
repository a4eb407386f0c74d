"""Linear maps between named axes: `Linear(rngs, {'embed': D}, {'heads': H, 'head': K})` has a (D, H, K) kernel.

The kernel is float32 and is cast to the dtype of the input; the bias is added in that dtype.
"""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.model import elementwise_normal, parameter
from llm_jax.layers import linear_cpu
from llm_jax.layers.doors import cpu_forms, tpu_forms
from llm_jax.layers.stack import is_unrolled
from llm_jax.parallel import gathered

Init = jax.nn.initializers.Initializer
normal = elementwise_normal
SUBLANES = 8  # of a TPU's vector registers: fewer rows of ones would take as long


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, axes: Sequence[str | None] = (),
           inputs: int = 1, turned: bool = False) -> jax.Array:
  """(..., *in) times (*in, *out) plus (*out,) in the dtype of `x`: the form that is fast on this platform.

  axes: the kernel's logical axes, where a mesh may split it. inputs: how many axes are contracted.
  turned: the kernel lies in memory with its outputs first (inference/weights.py).
  """
  lead, out = x.shape[: x.ndim - inputs], kernel.shape[inputs:]
  if cpu_forms():  # see linear_cpu.py
    rows, columns = math.prod(kernel.shape[:inputs]), math.prod(out)
    flat = None if bias is None else bias.reshape(columns)
    x_TI, kernel_IO = x.reshape(-1, rows), kernel.reshape(rows, columns)
    form = linear_cpu.few if turned and linear_cpu.are_few(x_TI, linear_cpu.SEVERAL) else linear_cpu.affine
    return form(x_TI, kernel_IO, flat).reshape(*lead, *out)
  multiply = lambda x, kernel: jnp.tensordot(x, kernel.astype(x.dtype), inputs)
  y = gathered.on_rows(multiply, x, kernel, axes if lead else (), x.dtype)
  return y if bias is None else y + bias.astype(y.dtype)


@jax.custom_vjp
def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
  """y (..., *out) + bias (*out) in the dtype of y. The bias's gradient is a product with ones, which a TPU does in a
  fraction of the time that it needs to add up rows whose layout suits their reader: heads before tokens."""
  return y + bias.astype(y.dtype)


def _ones_times(bias: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
  tokens = tuple(range(dy.ndim - bias.ndim))  # not made one dimension: that would be another layout
  ones = jnp.ones((*dy.shape[: dy.ndim - bias.ndim], SUBLANES), dy.dtype)
  sums = jax.lax.dot_general(ones, dy, ((tokens, tokens), ((), ())), preferred_element_type=jnp.float32)
  return dy, sums[0].astype(bias.dtype)


add_bias.defvjp(lambda y, bias: (add_bias(y, bias), bias), _ones_times)


class Linear(nnx.Module):
  """x (..., *in) -> (..., *out); one contraction over all input axes."""

  def __init__(self, rngs: nnx.Rngs, inputs: Mapping[str, int], outputs: Mapping[str, int], *, bias: bool = True,
               init: Init | None = None):
    self.inputs, self.outputs = tuple(inputs.values()), tuple(outputs.values())
    init = init or normal(0.02)
    self.axes = (*inputs, *outputs)
    self.kernel = parameter(rngs, self.inputs + self.outputs, self.axes, init, len(inputs))
    self.bias = parameter(rngs, self.outputs, tuple(outputs), jax.nn.initializers.zeros) if bias else None

  def __call__(self, x: jax.Array, factor: float | None = None) -> jax.Array:
    """factor: of the result, put into the weights."""
    kernel, bias = self.kernel[...], None if self.bias is None else self.bias[...]
    if factor is not None and factor != 1.0:
      kernel, bias = kernel * factor, None if bias is None else bias * factor
    late = bias is not None and bias.ndim > 1 and tpu_forms()
    y = linear(x, kernel, None if late else bias, self.axes, len(self.inputs), self.turned)
    return add_bias(y, bias) if late else y

  @property
  def turned(self) -> bool:
    """Whether decoding has laid the kernel with its outputs first, see inference/weights.py."""
    return is_unrolled() and "contracted" in self.kernel.get_metadata()
