"""Parameters as decoding wants them: on a CPU, every layer's arrays apart instead of stacked, and kernels turned.

A step reads each weight once, so its time is the time to read them. A scan over stacked layers first copies each layer
out of the stack, which on a CPU doubles and triples the traffic; with one array per layer and unrolled layers the
matrix products read the parameters where they lie. Of few rows they are fastest with a kernel's outputs first, see
layers/linear_cpu.py. Costs a second copy of the layers and a longer compile.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.model import Model
from llm_jax.core.types import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Turned:
  """A kernel that lies in memory with its outputs first. flat: (outputs, inputs); shape: as the network knows it."""

  flat: jax.Array
  shape: tuple[int, ...] = dataclasses.field(metadata=dict(static=True))


def split_layers(model: Model, params: Params) -> dict[str, Any]:
  """The parameters with a tuple of arrays, one per layer, in place of every stacked array; kernels of a network that
  computes in float32 are turned, see `Turned`."""
  turns = model.contracted if getattr(model.config, "dtype", "float32") == "float32" else {}
  def apart(stacked: Params) -> dict[str, Any]:
    return {n: tuple(_as_it_is_read(a[i], turns.get(n, 0)) for i in range(a.shape[0])) for n, a in stacked.items()}
  stacked = {n: a for n, a in params.items() if model.logical_axes[n][:1] == ("layers",)}
  return {n: a for n, a in params.items() if n not in stacked} | jax.jit(apart)(stacked)


def _as_it_is_read(kernel: jax.Array, contracted: int) -> jax.Array | Turned:
  if not contracted:
    return kernel
  return Turned(kernel.reshape(math.prod(kernel.shape[:contracted]), -1).T, kernel.shape)


def join_layers(params: Mapping[str, Any]) -> Params:
  """The stacked form again, for use while tracing: where layers are unrolled the compiler sees through it."""
  whole = lambda a: a.flat.T.reshape(a.shape) if isinstance(a, Turned) else a
  return {n: jnp.stack([*map(whole, a)]) if isinstance(a, tuple) else a for n, a in params.items()}
