"""VeRA (Kopiczko et al. 2024): LoRA whose thin matrices are random, frozen and the same everywhere; two vectors train.

    y = x W + b * ((d * x A) B),   A (in, rank) and B (rank, out) drawn once, d = 0.1, b = 0

A and B of a map are the first rows and columns of one pair that is as large as the largest map. b starts at zero, so
the model is the same function. Every map holds its part of the pair, so that a stack scans over layers as before.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.errors import ConfigError
from llm_jax.core.model import Model
from llm_jax.core.names import select
from llm_jax.layers.linear import Linear, linear
from llm_jax.peft.adapted import (
    KEY,
    Arrays,
    Method,
    axes_of_linears,
    check_train,
    frozen_but,
    replace_linears,
    take_over,
)

TRAINED = r"\.vera_[db]$"
ADDED = r"\.vera_(in|out|d|b)$"
Pair = tuple[jax.Array, jax.Array]


class VeRALinear(Linear):
  """A Linear with a frozen random product beside its kernel, weighed by two vectors."""

  def __init__(self, base: Linear, pair: Pair, first: float):
    axes, ins, lead = take_over(self, base)
    a, b = pair[0][:math.prod(base.inputs)], pair[1][:, :math.prod(base.outputs)]
    rank = a.shape[1]
    spread = lambda part, *shape: jnp.broadcast_to(part.reshape(shape), (*lead, *shape))
    self.vera_in = nnx.Param(spread(a, *base.inputs, rank), axes=(*axes[:ins], None))
    self.vera_out = nnx.Param(spread(b, rank, *base.outputs), axes=(None, *axes[ins:]))
    self.vera_d = nnx.Param(jnp.full((*lead, rank), first, jnp.float32), axes=(None,))
    self.vera_b = nnx.Param(jnp.zeros((*lead, *base.outputs), jnp.float32), axes=axes[ins:])

  def __call__(self, x: jax.Array, factor: float | None = None) -> jax.Array:
    rows, columns = math.prod(self.inputs), math.prod(self.outputs)
    flat = x.reshape(*x.shape[: x.ndim - len(self.inputs)], rows)
    thin = linear(flat, self.vera_in[...].reshape(rows, -1)) * self.vera_d[...].astype(x.dtype)
    added = linear(thin, self.vera_out[...].reshape(-1, columns)).reshape(*flat.shape[:-1], *self.outputs)
    added = added * self.vera_b[...].astype(x.dtype)
    return super().__call__(x, factor) + (added if factor is None else added * factor)


def build(*, rank: int = 256, targets: str = r"attention\.(query|value)$", train: str | None = None,
          first: float = 0.1, seed: int = 0) -> Method:
  """VeRA.

  Args:
    rank: columns of A and rows of B.
    targets: regular expression over the names of linear maps, e.g. 'blocks.attention.query'; '.' takes all.
    train: regular expression of further parameters to train (norms, biases, a head); None trains the vectors only.
    first: what every element of d starts at.
    seed: of the random pair.
  """
  if rank < 1:
    raise ConfigError(f"{KEY}.rank", f"got {rank}", accepted="a whole number from 1")
  knobs = dict(rank=rank, targets=targets, train=train, first=first, seed=seed)
  adapt = functools.partial(_adapt, rank=rank, targets=targets, train=train, first=first, seed=seed)
  return Method(adapt, frozen_but(TRAINED, train), merge, "vera", knobs)


def _adapt(model: Model, *, rank: int, targets: str, train: str | None, first: float, seed: int) -> Model:
  check_train(model, train)
  maps = axes_of_linears(model)
  taken = [maps[name] for name in select(maps, targets, f"{KEY}.targets")]
  rows, columns = (max(math.prod(axes[side]) for axes in taken) for side in (0, 1))
  def wrap(rngs: nnx.Rngs, base: Linear, name: str) -> Linear:
    return VeRALinear(base, _pair(seed, rows, rank, columns), first)
  return replace_linears(model, targets, wrap)


def _pair(seed: int, rows: int, rank: int, columns: int) -> Pair:
  """Uniform with the variance 2 / inputs of each (He et al. 2015), as the paper draws them."""
  a_key, b_key = jax.random.split(jax.random.key(seed))
  draw = lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0) * math.sqrt(6 / shape[0])
  return draw(a_key, (rows, rank)), draw(b_key, (rank, columns))


def merge(params: Arrays) -> dict[str, jax.Array]:
  """The base's parameters with kernel + A diag(d) B diag(b) in place of each adapted kernel."""
  merged = {n: p for n, p in params.items() if not re.search(ADDED, n)}
  for name, d in params.items():
    if name.endswith(".vera_d"):
      stem = name.removesuffix(".vera_d")
      a, b, scale, kernel = (params[f"{stem}.{leaf}"] for leaf in ("vera_in", "vera_out", "vera_b", "kernel"))
      lead, rank = d.shape[:-1], d.shape[-1]
      thin = a.reshape(*lead, -1, rank) * d[..., None, :]
      wide = b.reshape(*lead, rank, -1) * scale.reshape(*lead, 1, -1)
      merged[f"{stem}.kernel"] = kernel + (thin @ wide).reshape(kernel.shape)
  return merged
