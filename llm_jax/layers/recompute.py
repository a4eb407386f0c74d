"""Computing again in the backward pass: cheap maps from their input, halves of a layer from what enters them.

Differentiated as they stand, an activation or a norm keeps several float32 arrays of the input's size for its backward
pass, and a scan over layers copies each of them. Computing the map again from its input costs less than moving them.

JAX puts a barrier before what is computed again and before the gradients that enter it, lest the compiler merge it
with the forward pass. Inside a loop there is no forward pass to merge with, and a barrier would only keep products and
the maps around them from becoming one. Outside, on a TPU, there is one only before what the forward pass kept.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.held import held
from llm_jax.layers.doors import tpu_forms

_looped: contextvars.ContextVar[bool] = contextvars.ContextVar("inside a loop over layers", default=False)


def in_loop() -> contextlib.AbstractContextManager[bool]:
  """What is traced under this is the body of a loop, whose backward pass is another loop."""
  return held(_looped, True)


def checkpoint(function: Callable[..., Any], keep: tuple[str, ...] = ()) -> Callable[..., Any]:
  """`function`, whose backward pass computes it again; keep: names (`checkpoint_name`) of what is kept all the same."""
  if tpu_forms() and not _looped.get():
    return functools.partial(_behind_a_barrier, function)
  policy = jax.checkpoint_policies.save_only_these_names(*keep) if keep else None
  return jax.checkpoint(function, policy=policy, prevent_cse=not _looped.get())


def _behind_a_barrier(function: Callable[..., Any], *arguments: Any) -> Any:
  """function(*arguments), computed again in the backward pass from the arrays among its arguments behind a barrier.
  Weights, which come in modules, and gradients have none: they are read where they are made."""
  leaves, tree = jax.tree.flatten(arguments)
  kind = [getattr(leaf, "dtype", None) for leaf in leaves]
  moved = [i for i, dtype in enumerate(kind) if dtype is not None and jnp.issubdtype(dtype, jnp.inexact)]
  still = [i for i, dtype in enumerate(kind) if dtype is not None and i not in moved]
  first = {id(a) for a in arguments}  # given as they are, not inside something
  barred = [n for n, i in enumerate(moved) if id(leaves[i]) in first]

  def whole(values: list[jax.Array], others: list[jax.Array]) -> Any:
    known = dict(zip(moved, values)) | dict(zip(still, others))
    with in_loop():  # what is inside is behind the same barrier
      return function(*jax.tree.unflatten(tree, [known.get(i, leaf) for i, leaf in enumerate(leaves)]))

  def backward(saved: tuple[list[jax.Array], list[jax.Array]], gradient: Any) -> tuple[Any, None]:
    values, others = list(saved[0]), saved[1]
    for n, value in zip(barred, jax.lax.optimization_barrier([values[n] for n in barred])):
      values[n] = value
    return jax.vjp(lambda values: whole(values, others), values)[1](gradient)[0], None

  run = jax.custom_vjp(whole)
  run.defvjp(lambda values, others: (whole(values, others), (values, others)), backward)
  return run([leaves[i] for i in moved], [leaves[i] for i in still])


def in_float32(function: Callable[..., jax.Array], x: jax.Array, *parameters: jax.Array | None) -> jax.Array:
  """function(x in float32, *parameters) in the dtype of `x`; only the arguments are kept for the backward pass."""
  return checkpoint(lambda x, *rest: function(x.astype(jnp.float32), *rest).astype(x.dtype))(x, *parameters)


def between_products(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
  """function(*arrays), a map of elements whose result and gradients are read by wide products; only the arguments are
  kept for the backward pass.

  The compiler of a TPU would compute result and gradients again, tile by tile, inside every product that reads them,
  which slows those down by more than it takes to write each array once (4 % of the step of an 8B decoder on v5p, by
  the compiler's own estimate). There they are therefore written.
  """
  return _written(function)(*arrays) if tpu_forms() else checkpoint(function)(*arrays)


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
