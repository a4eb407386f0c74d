"""Cheap maps whose backward pass starts again from their input.

Differentiated as they stand, an activation or a norm keeps several float32 arrays of the input's size for its backward
pass, and a scan over layers copies each of them. Computing the map again from its input costs less than moving them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm_jax.core.derivatives import plain
from llm_jax.layers.doors import platform


def in_float32(function: Callable[..., jax.Array], x: jax.Array, *parameters: jax.Array | None) -> jax.Array:
  """function(x in float32, *parameters) in the dtype of `x`; only the arguments are kept for the backward pass."""
  return jax.checkpoint(lambda x, *rest: function(x.astype(jnp.float32), *rest).astype(x.dtype))(x, *parameters)


def between_products(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
  """function(*arrays), a map of elements whose result and gradients are read by wide products; only the arguments are
  kept for the backward pass.

  The compiler of a TPU would compute result and gradients again, tile by tile, inside every product that reads them,
  which slows those down by more than it takes to write each array once (4 % of the step of an 8B decoder on v5p, by
  the compiler's own estimate). There they are therefore written.
  """
  on_tpu = platform() == "tpu" and not plain()
  return _written(function)(*arrays) if on_tpu else jax.checkpoint(function)(*arrays)


def _written(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """The function with its result, and its gradients, written before they are read."""
  @jax.custom_vjp
  def run(*arrays: jax.Array) -> jax.Array:
    return jax.lax.optimization_barrier(function(*arrays))

  def backward(arrays: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array, ...]:
    once = jax.lax.optimization_barrier  # without the first the product before would make the gradients, and slowly
    return once(jax.vjp(function, *arrays)[1](once(gradient)))

  run.defvjp(lambda *arrays: (run(*arrays), arrays), backward)
  return run
