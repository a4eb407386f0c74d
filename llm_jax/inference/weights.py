"""Parameters as decoding wants them: on a CPU, every layer's arrays apart instead of stacked.

A step reads each weight once, so its time is the time to read them. A scan over stacked layers first copies each layer
out of the stack, which on a CPU doubles and triples the traffic; with one array per layer and unrolled layers the
matrix products read the parameters where they lie. Costs a second copy of the layers and a longer compile.
"""

import jax
import jax.numpy as jnp

from llm_jax.core.model import Model
from llm_jax.core.types import Params


def split_layers(model: Model, params: Params) -> Params:
  """The parameters with a tuple of arrays, one per layer, in place of every stacked array."""
  apart = jax.jit(lambda stacked: {n: tuple(a[i] for i in range(a.shape[0])) for n, a in stacked.items()})
  stacked = {n: a for n, a in params.items() if model.logical_axes[n][:1] == ("layers",)}
  return {n: a for n, a in params.items() if n not in stacked} | apart(stacked)


def join_layers(params: Params) -> Params:
  """The stacked form again, for use while tracing: where layers are unrolled the compiler sees through it."""
  return {n: jnp.stack(a) if isinstance(a, tuple) else a for n, a in params.items()}
