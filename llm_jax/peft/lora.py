"""LoRA (Hu et al. 2022): every chosen linear map gets a trained product of two thin matrices beside its frozen kernel.

    y = x W + (alpha / rank) x A B,   A (in, rank) ~ U(-in^-1/2, in^-1/2),   B (rank, out) = 0

B starts at zero, so the model is the same function until it is trained. The chosen `Linear`s are replaced where they
stand: W and the bias keep their names (so that checkpoints of the base load), A and B are 'lora_a' and 'lora_b' beside
them, with the leading layer axes of a stack, and the network around does not notice. Layers of a stack may have ranks
of their own: columns of A beyond a layer's rank are zero, as are the rows of B, so that no gradient reaches them.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llm_jax.core.errors import ConfigError
from llm_jax.core.model import Model
from llm_jax.layers.linear import Linear, linear
from llm_jax.peft.adapted import KEY, Arrays, Method, check_train, frozen_but, replace_linears, stacked, take_over

TRAINED = r"\.lora_[ab]$"
ADDED = r"\.lora_(a|b|scale)$"


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Rank and scale of each map; `ranks` and `alphas` as in `build`, the first pattern that takes a name counts."""

  rank: int
  alpha: float
  stabilised: bool = False
  ranks: Mapping[str, int] = dataclasses.field(default_factory=dict)
  alphas: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def of(self, name: str, lead: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(ranks, scales), each of shape `lead`; the scale of rank 0 is that of the first layer that has any."""
    ranks, alphas = np.empty(lead, np.int64), np.empty(lead, np.float32)
    for index in np.ndindex(*lead):
      ranks[index] = _first(self.ranks, layer_name(name, index), self.rank)
      alphas[index] = _first(self.alphas, layer_name(name, index), self.alpha)
    scales = alphas / np.maximum(np.sqrt(ranks) if self.stabilised else ranks, 1).astype(np.float32)
    return ranks, np.where(ranks > 0, scales, scales[ranks > 0].flat[0] if ranks.any() else 1.0).astype(np.float32)


def layer_name(name: str, index: tuple[int, ...]) -> str:
  """The name of one layer's map: 'blocks.attention.query[1]'; that of a map outside stacks is its own."""
  return f"{name}[{','.join(map(str, index))}]" if index else name


def _first(patterns: Mapping[str, float], name: str, otherwise: float) -> float:
  return next((value for pattern, value in patterns.items() if re.search(pattern, name)), otherwise)


class LoRALinear(Linear):
  """A Linear with a low-rank product beside its kernel; takes over the arrays of `base`, stacked or not."""

  def __init__(self, rngs: nnx.Rngs, base: Linear, ranks: np.ndarray, scales: np.ndarray):
    axes, ins, lead = take_over(self, base)
    bound, rank = math.prod(base.inputs) ** -0.5, int(ranks.max())
    a = jax.random.uniform(rngs.params(), (*lead, *base.inputs, rank), jnp.float32, -bound, bound)
    if (ranks < rank).any():
      there = np.arange(rank) < ranks[..., None]
      a = a * there.reshape(*lead, *(1,) * ins, rank)
    self.lora_a = nnx.Param(a, axes=(*axes[:ins], None))
    self.lora_b = nnx.Param(jnp.zeros((*lead, rank, *base.outputs), jnp.float32), axes=(None, *axes[ins:]))
    self.scale = float(scales.flat[0])
    self.lora_scale = None if (scales == scales.flat[0]).all() else nnx.Param(jnp.asarray(scales), axes=())

  def __call__(self, x: jax.Array, factor: float | None = None) -> jax.Array:
    return super().__call__(x, factor) + self.added(x, factor)

  def added(self, x: jax.Array, factor: float | None = None) -> jax.Array:
    """scale * x A B, (..., *out)."""
    rows, columns = math.prod(self.inputs), math.prod(self.outputs)
    flat = x.reshape(*x.shape[: x.ndim - len(self.inputs)], rows)
    thin = linear(flat, self.lora_a[...].reshape(rows, -1))
    added = linear(thin, self.lora_b[...].reshape(-1, columns))
    added = added * (self.scale if self.lora_scale is None else self.lora_scale[...].astype(added.dtype))
    added = added if factor is None else added * factor
    return added.reshape(*flat.shape[:-1], *self.outputs).astype(x.dtype)


def build(*, rank: int = 8, alpha: float = 16.0, targets: str = r"attention\.(query|value)$",
          train: str | None = None, stabilised: bool = False, ranks: dict[str, int] | None = None,
          alphas: dict[str, float] | None = None) -> Method:
  """LoRA.

  Args:
    rank: columns of A and rows of B.
    alpha: the product counts alpha / rank.
    targets: regular expression over the names of linear maps, e.g. 'blocks.attention.query'; '.' takes all.
    train: regular expression of further parameters to train (norms, biases, a head); None trains A and B only.
    stabilised: the product counts alpha / sqrt(rank), rsLoRA (Kalajdzievski 2023).
    ranks: other ranks, {regular expression over the names of single maps such as 'blocks.attention.query[1]', of layer
      1: rank}; 0 leaves a layer alone.
    alphas: other alphas, in the same way.
  """
  sizes = checked_sizes(rank, alpha, stabilised, ranks, alphas)
  knobs = dict(rank=rank, alpha=alpha, targets=targets, train=train, stabilised=stabilised, ranks=ranks, alphas=alphas)
  change = functools.partial(adapt, kind=LoRALinear, sizes=sizes, targets=targets, train=train)
  return Method(change, frozen_but(TRAINED, train), functools.partial(merge, sizes=sizes), "lora", knobs)


def checked_sizes(rank: int, alpha: float, stabilised: bool, ranks: dict | None, alphas: dict | None) -> Sizes:
  """Raises:
    ConfigError: a rank below 1, or below 0 among the patterns.
  """
  if rank < 1:
    raise ConfigError(f"{KEY}.rank", f"got {rank}", accepted="a whole number from 1")
  for pattern, other in (ranks or {}).items():
    if not isinstance(other, int) or other < 0:
      raise ConfigError(f"{KEY}.ranks", f"{pattern!r} has rank {other}", accepted="whole numbers from 0")
  return Sizes(rank, alpha, stabilised, ranks or {}, alphas or {})


def sizes_of(method: Method) -> Sizes:
  """The ranks and scales that a method's knobs say."""
  return checked_sizes(*(method.knobs[k] for k in ("rank", "alpha", "stabilised", "ranks", "alphas")))


def adapt(model: Model, *, kind: type[LoRALinear], sizes: Sizes, targets: str, train: str | None) -> Model:
  """`model` with a map of this kind in place of each that has a rank."""
  check_train(model, train)
  def wrap(rngs: nnx.Rngs, base: Linear, name: str) -> Linear | None:
    ranks, scales = sizes.of(name, stacked(base))
    return kind(rngs, base, ranks, scales) if ranks.any() else None
  return replace_linears(model, targets, wrap)


def merge(params: Arrays, *, sizes: Sizes) -> dict[str, jax.Array]:
  """The base's parameters with kernel + scale * A B in place of each adapted kernel."""
  merged = {n: p for n, p in params.items() if not re.search(ADDED, n)}
  for name in params:
    if name.endswith(".lora_a"):
      stem = name.removesuffix(".lora_a")
      merged[f"{stem}.kernel"] = params[f"{stem}.kernel"] + scaled_product(params, stem, sizes)
  return merged


def scaled_product(params: Arrays, stem: str, sizes: Sizes) -> jax.Array:
  """scale * A B in the kernel's shape."""
  a, b, kernel = params[f"{stem}.lora_a"], params[f"{stem}.lora_b"], params[f"{stem}.kernel"]
  count = a.ndim + b.ndim - 2 - kernel.ndim
  lead = a.shape[:count]
  product = a.reshape(*lead, -1, a.shape[-1]) @ b.reshape(*lead, b.shape[count], -1)
  scales = sizes.of(stem, lead)[1]
  return product.reshape(kernel.shape) * scales.reshape(*lead, *(1,) * (kernel.ndim - count))
