"""Cheap maps in float32 whose backward pass starts again from their input.

Differentiated as they stand, an activation or a norm keeps several float32 arrays of the input's size for its backward
pass, and a scan over layers copies each of them. Computing the map again from its input costs less than moving them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def in_float32(function: Callable[..., jax.Array], x: jax.Array, *parameters: jax.Array | None) -> jax.Array:
  """function(x in float32, *parameters) in the dtype of `x`; only the arguments are kept for the backward pass."""
  return jax.checkpoint(lambda x, *rest: function(x.astype(jnp.float32), *rest).astype(x.dtype))(x, *parameters)
