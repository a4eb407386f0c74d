"""(IA)^3 (Liu et al. 2022): trained vectors that multiply keys, values, and what the feed-forward block contracts.

    y = (x W + bias) * l   of the maps `targets`;   y = (x * l) W + bias   of the maps `contracted`

The vectors start at one, so the model is the same function; they merge into the kernels (and biases) exactly. Each has
the shape of its kernel with 1 for the axes that it does not vary along.
"""

import functools
import re

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.errors import ConfigError
from llm_jax.core.model import Model
from llm_jax.layers.linear import Linear
from llm_jax.peft.adapted import KEY, Arrays, Method, check_train, frozen_but, replace_linears, take_over

TRAINED = r"\.ia3_(in|out)$"


class ScaledOutputs(Linear):
  """A Linear with a factor for each output."""

  def __init__(self, base: Linear):
    axes, ins, lead = take_over(self, base)
    shape = (*lead, *(1,) * ins, *base.outputs)
    self.ia3_out = nnx.Param(jnp.ones(shape, jnp.float32), axes=(*(None,) * ins, *axes[ins:]))

  def __call__(self, x: jax.Array, factor: float | None = None) -> jax.Array:
    y = super().__call__(x, factor)
    return y * self.ia3_out[...].reshape(self.outputs).astype(y.dtype)


class ScaledInputs(Linear):
  """A Linear with a factor for each input."""

  def __init__(self, base: Linear):
    axes, ins, lead = take_over(self, base)
    outs = len(base.outputs)
    shape = (*lead, *base.inputs, *(1,) * outs)
    self.ia3_in = nnx.Param(jnp.ones(shape, jnp.float32), axes=(*axes[:ins], *(None,) * outs))

  def __call__(self, x: jax.Array, factor: float | None = None) -> jax.Array:
    return super().__call__(x * self.ia3_in[...].reshape(self.inputs).astype(x.dtype), factor)


def build(*, targets: str | None = r"attention\.(key|value)$", contracted: str | None = r"feed_forward\.down$",
          train: str | None = None) -> Method:
  """(IA)^3.

  Args:
    targets: regular expression over the names of linear maps whose outputs are multiplied; None for none.
    contracted: regular expression over the names of linear maps whose inputs are multiplied; None for none.
    train: regular expression of further parameters to train (norms, biases, a head); None trains the vectors only.
  """
  if targets is None and contracted is None:
    raise ConfigError(f"{KEY}.targets", "nothing is multiplied", accepted="targets or contracted")
  knobs = dict(targets=targets, contracted=contracted, train=train)
  adapt = functools.partial(_adapt, targets=targets, contracted=contracted, train=train)
  return Method(adapt, frozen_but(TRAINED, train), merge, "ia3", knobs)


def _adapt(model: Model, *, targets: str | None, contracted: str | None, train: str | None) -> Model:
  check_train(model, train)
  for pattern, kind in ((targets, ScaledOutputs), (contracted, ScaledInputs)):
    if pattern is not None:
      model = replace_linears(model, pattern, functools.partial(_wrap, kind))
  return model


def _wrap(kind: type, rngs: nnx.Rngs, base: Linear, name: str) -> Linear:
  """Raises:
    ConfigError: a map that has factors already.
  """
  if isinstance(base, ScaledOutputs):
    raise ConfigError(f"{KEY}.contracted", f"takes {name}, as targets does", accepted="maps that targets does not take")
  return kind(base)


def merge(params: Arrays) -> dict[str, jax.Array]:
  """The base's parameters with the factors in kernels and biases."""
  merged = {n: p for n, p in params.items() if not re.search(TRAINED, n)}
  for name, factor in params.items():
    stem, _, side = name.rpartition(".")
    if side in ("ia3_in", "ia3_out"):
      merged[f"{stem}.kernel"] = merged[f"{stem}.kernel"] * factor
    if side == "ia3_out" and f"{stem}.bias" in merged:
      merged[f"{stem}.bias"] = merged[f"{stem}.bias"] * factor.reshape(merged[f"{stem}.bias"].shape)
  return merged
