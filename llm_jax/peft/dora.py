"""DoRA (Liu et al. 2024): LoRA changes the direction of a kernel's columns, a trained vector sets their lengths.

    y = m * x (W + s A B) / |W + s A B| + bias,   one length per output, m = |W| at first

The norm counts as a constant in the gradient (their equation 11). At first the quotient is one and B zero, so the model
is the same function; `start` takes m from the weights that were loaded. A magnitude of exactly zero marks a layer of a
stack that has no adapter: its outputs stay as they are.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llm_jax.layers.linear import Linear, linear
from llm_jax.peft import lora
from llm_jax.peft.adapted import Arrays, Method, frozen_but, stacked

TRAINED = r"\.(lora_[ab]|dora_magnitude)$"
ADDED = r"\.(lora_(a|b|scale)|dora_magnitude)$"


def norms(kernel: jax.Array, lead: int, inputs: int) -> jax.Array:
  """Length over the input axes, (*layers, *out)."""
  return jnp.sqrt(jnp.square(kernel).sum(tuple(range(lead, lead + inputs))))


def _quotient(magnitude: jax.Array, kernel: jax.Array, lead: int, inputs: int) -> jax.Array:
  """magnitude / norm of the kernel, 1 where the magnitude is 0."""
  length = jax.lax.stop_gradient(norms(kernel, lead, inputs))
  there = (magnitude != 0) & (length > 0)
  return jnp.where(there, magnitude / jnp.where(there, length, 1.0), 1.0)


class DoRALinear(lora.LoRALinear):
  """A Linear whose kernel has a low-rank change of direction and a length per output."""

  def __init__(self, rngs: nnx.Rngs, base: Linear, ranks: np.ndarray, scales: np.ndarray):
    super().__init__(rngs, base, ranks, scales)
    lead, ins = stacked(base), len(base.inputs)
    there = (ranks > 0).reshape(*lead, *(1,) * len(base.outputs))
    self.dora_magnitude = nnx.Param(norms(base.kernel[...], len(lead), ins) * there,
                                    axes=base.kernel.get_metadata()["axes"][ins:])

  def __call__(self, x: jax.Array, factor: float | None = None) -> jax.Array:
    ins = len(self.inputs)
    whole = self.kernel[...] + self._product()
    y = linear(x, self.kernel[...], None, self.axes, ins, self.turned) + self.added(x)
    y = (y * _quotient(self.dora_magnitude[...], whole, 0, ins)).astype(x.dtype)
    y = y if self.bias is None else y + self.bias[...].astype(y.dtype)
    return y if factor is None else y * factor

  def _product(self) -> jax.Array:
    """scale * A B of one layer, in the kernel's shape."""
    a, b = self.lora_a[...], self.lora_b[...]
    product = (a.reshape(-1, a.shape[-1]) @ b.reshape(b.shape[0], -1)).reshape(self.kernel.shape)
    return product * (self.scale if self.lora_scale is None else self.lora_scale[...])


def build(*, rank: int = 8, alpha: float = 16.0, targets: str = r"attention\.(query|value)$",
          train: str | None = None, stabilised: bool = False, ranks: dict[str, int] | None = None,
          alphas: dict[str, float] | None = None) -> Method:
  """DoRA.

  Args:
    rank: columns of A and rows of B.
    alpha: the product counts alpha / rank.
    targets: regular expression over the names of linear maps, e.g. 'blocks.attention.query'; '.' takes all.
    train: regular expression of further parameters to train (norms, biases, a head); None trains none.
    stabilised: the product counts alpha / sqrt(rank).
    ranks: other ranks, {regular expression over the names of single maps such as 'blocks.attention.query[1]', of layer
      1: rank}; 0 leaves a layer alone.
    alphas: other alphas, in the same way.
  """
  sizes = lora.checked_sizes(rank, alpha, stabilised, ranks, alphas)
  knobs = dict(rank=rank, alpha=alpha, targets=targets, train=train, stabilised=stabilised, ranks=ranks, alphas=alphas)
  change = functools.partial(lora.adapt, kind=DoRALinear, sizes=sizes, targets=targets, train=train)
  return Method(change, frozen_but(TRAINED, train), functools.partial(merge, sizes=sizes), "dora",
                knobs, functools.partial(start, sizes=sizes))


def start(params: Arrays, *, sizes: lora.Sizes) -> dict[str, jax.Array]:
  """The parameters with the lengths of the kernels that are there as magnitudes."""
  found = dict(params)
  for stem, whole, lead, inputs in _kernels(params, sizes):
    outs = whole.ndim - lead - inputs
    there = sizes.of(stem, whole.shape[:lead])[0] > 0
    found[f"{stem}.dora_magnitude"] = norms(whole, lead, inputs) * there.reshape(*whole.shape[:lead], *(1,) * outs)
  return found


def merge(params: Arrays, *, sizes: lora.Sizes) -> dict[str, jax.Array]:
  """The base's parameters with each adapted kernel at its new direction and length."""
  merged = {n: p for n, p in params.items() if not re.search(ADDED, n)}
  for stem, whole, lead, inputs in _kernels(params, sizes):
    quotient = _quotient(params[f"{stem}.dora_magnitude"], whole, lead, inputs)
    outs = quotient.shape[lead:]
    merged[f"{stem}.kernel"] = whole * quotient.reshape(*whole.shape[:lead], *(1,) * inputs, *outs)
  return merged


def _kernels(params: Arrays, sizes: lora.Sizes) -> list[tuple[str, jax.Array, int, int]]:
  """(stem, W + s A B, number of its layer axes, number of its input axes) of every adapted map."""
  found = []
  for name, a in params.items():
    if name.endswith(".lora_a"):
      stem = name.removesuffix(".lora_a")
      kernel = params[f"{stem}.kernel"]
      lead = a.ndim + params[f"{stem}.lora_b"].ndim - 2 - kernel.ndim
      found.append((stem, kernel + lora.scaled_product(params, stem, sizes), lead, a.ndim - 1 - lead))
  return found
