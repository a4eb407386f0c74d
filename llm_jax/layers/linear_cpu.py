"""The affine map as XLA's CPU backend runs it best: the same numbers in another order, 1.2 to 2 times the train step.

Found by measurement on AVX-512 machines. The weight gradient x^T dy runs at the machine's peak only with the narrower
operand on the left, which is also the one that XLA transposes, so a wide-to-narrow gradient is computed transposed; the
barrier keeps XLA from swapping it back. In bfloat16 only products that ask for a float32 result reach the bfloat16
units, and of the weight gradient's forms only one that contracts two dimensions does: the tokens are split in two for
that. In float32 they are too, since two threads share such products better (2 to 3 % of a step). Up to jax 0.10, many
tokens are taken 1,024 at a time in bfloat16, so that both operands stay in the caches: 0.87 to 0.98 of the time alone,
at 2,048 to 8,192 tokens of width 384 and 768. float32 loses by it, and so does jax 0.12, whose kernels do this
themselves. Bias gradients are summed in float32, because a bfloat16 sum over tokens becomes a windowed reduction.
"""

import jax
import jax.numpy as jnp

BLOCK = 1_024  # tokens
MOST_BLOCKS = 8 if jax.__version_info__ < (0, 11) else 1  # more than 8 would hold too many products at once

FEW = 32  # rows that meet a whole vocabulary in decoding
SEVERAL = 512  # rows that meet a kernel


def weights_first(x_TI: jax.Array, weights_OI: jax.Array) -> jax.Array:
  """x weights^T -> (T, O), float32, of few rows: weights first, since the second operand is the one that is packed.
  0.4 to 0.9 of the time at 1 to 32 rows of width 768 and 50,257 tokens; the barrier keeps XLA from swapping it back."""
  y_OT = jax.lax.dot_general(weights_OI, x_TI, (((1,), (1,)), ((), ())))
  return jax.lax.optimization_barrier(y_OT).T


def are_few(x_TI: jax.Array, most: int) -> bool:
  """Whether weights that lie with their outputs first come first for these rows; in bfloat16 it gains nothing."""
  return x_TI.shape[0] <= most and x_TI.dtype == jnp.float32


def few(x_TI: jax.Array, kernel_IO: jax.Array, bias_O: jax.Array | None) -> jax.Array:
  """x kernel + bias -> (T, O), float32, of few rows, where the kernel lies as (O, I): 768 x 3,072 and back takes 0.9 of
  the time of `affine` with one row, 0.4 to 0.6 with 2 to 32, 0.9 with 128, on one thread and on two."""
  y = weights_first(x_TI, kernel_IO.T)
  return y if bias_O is None else y + bias_O


@jax.custom_vjp
def affine(x_TI: jax.Array, kernel_IO: jax.Array, bias_O: jax.Array | None) -> jax.Array:
  """x kernel + bias -> (T, O) in the dtype of `x`; gradients of kernel and bias in their own dtypes."""
  y = jnp.dot(x_TI, kernel_IO.astype(x_TI.dtype), preferred_element_type=jnp.float32)
  return (y if bias_O is None else y + bias_O).astype(x_TI.dtype)


def _forward(x, kernel, bias):
  return affine(x, kernel, bias), (x, kernel, bias)


def _backward(saved, dy: jax.Array):
  x, kernel, bias = saved
  dx = jnp.einsum("to,io->ti", dy, kernel.astype(dy.dtype), preferred_element_type=jnp.float32).astype(x.dtype)
  dw = _contract_tokens(x, dy).astype(kernel.dtype)
  return dx, dw, None if bias is None else dy.sum(0, dtype=jnp.float32).astype(bias.dtype)


affine.defvjp(_forward, _backward)


def _contract_tokens(x_TI: jax.Array, dy_TO: jax.Array) -> jax.Array:
  """x^T dy -> (I, O), float32."""
  if x_TI.shape[1] > dy_TO.shape[1]:
    return jax.lax.optimization_barrier(_narrow_first(dy_TO, x_TI)).T
  return _narrow_first(x_TI, dy_TO)


def _narrow_first(x_TI: jax.Array, dy_TO: jax.Array) -> jax.Array:
  """x^T dy, float32, where x is not the wider one."""
  products = [_product(x, dy) for x, dy in zip(_blocks(x_TI), _blocks(dy_TO))]
  return sum(products[1:], products[0])


def _blocks(a_TF: jax.Array) -> list[jax.Array]:
  """The tokens in blocks whose products are summed: in bfloat16, of about `BLOCK`."""
  tokens = a_TF.shape[0]
  count = tokens // BLOCK
  if a_TF.dtype != jnp.bfloat16 or not 1 < count <= MOST_BLOCKS or tokens % (2 * count):
    return [a_TF]
  return jnp.split(a_TF, count)


def _product(x_TI: jax.Array, dy_TO: jax.Array) -> jax.Array:
  """x^T dy, float32, at once."""
  if x_TI.shape[0] % 2:
    return jax.lax.dot_general(x_TI, dy_TO, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
  halves = lambda a: a.reshape(2, -1, a.shape[-1])
  dw = jnp.einsum("hti,hto->io", halves(x_TI), halves(dy_TO), preferred_element_type=jnp.float32)
  # Keeps a transposition that follows (a tied head's) from being merged into a product that XLA cannot run.
  return jax.lax.optimization_barrier(dw)
