"""LoRA (Hu et al. 2022): every chosen linear map gets a trained product of two thin matrices beside its frozen kernel.

    y = x W + (alpha / rank) x A B,   A (in, rank) ~ U(-in^-1/2, in^-1/2),   B (rank, out) = 0

B starts at zero, so the model is the same function until it is trained. The chosen `Linear`s are replaced where they
stand: W and the bias keep their names (so that checkpoints of the base load), A and B are 'lora_a' and 'lora_b' beside
them, with the leading layer axes of a stack, and the network around does not notice.
"""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.errors import ConfigError
from llm_jax.core.model import Model
from llm_jax.core.names import select
from llm_jax.layers.linear import Linear, linear
from llm_jax.peft.adapted import Arrays, Method

KEY = "config.peft"
TRAINED = r"\.lora_[ab]$"


class LoRALinear(Linear):
  """A Linear with a low-rank product beside its kernel; takes over the arrays of `base`, stacked or not."""

  def __init__(self, rngs: nnx.Rngs, base: Linear, rank: int, alpha: float):
    self.inputs, self.outputs, self.scale = base.inputs, base.outputs, alpha / rank
    self.kernel, self.bias, self.axes = base.kernel, base.bias, base.axes
    axes, ins = base.kernel.get_metadata()["axes"], len(base.inputs)
    stacked = base.kernel.shape[: len(base.kernel.shape) - ins - len(base.outputs)]
    bound = math.prod(base.inputs) ** -0.5
    a = jax.random.uniform(rngs.params(), (*stacked, *base.inputs, rank), jnp.float32, -bound, bound)
    self.lora_a = nnx.Param(a, axes=(*axes[:ins], None))
    self.lora_b = nnx.Param(jnp.zeros((*stacked, rank, *base.outputs), jnp.float32), axes=(None, *axes[ins:]))

  def __call__(self, x: jax.Array, factor: float | None = None) -> jax.Array:
    rows, columns = math.prod(self.inputs), math.prod(self.outputs)
    flat = x.reshape(*x.shape[: x.ndim - len(self.inputs)], rows)
    thin = linear(flat, self.lora_a[...].reshape(rows, -1))
    added = linear(thin, self.lora_b[...].reshape(-1, columns)) * self.scale
    added = added if factor is None else added * factor
    return super().__call__(x, factor) + added.reshape(*flat.shape[:-1], *self.outputs).astype(x.dtype)


def build(*, rank: int = 8, alpha: float = 16.0, targets: str = r"attention\.(query|value)$",
          train: str | None = None) -> Method:
  """LoRA.

  Args:
    rank: columns of A and rows of B.
    alpha: the product counts alpha / rank.
    targets: regular expression over the names of linear maps, e.g. 'blocks.attention.query'; '.' takes all.
    train: regular expression of further parameters to train (norms, biases, a head); None trains A and B only.
  """
  if rank < 1:
    raise ConfigError(f"{KEY}.rank", f"got {rank}", accepted="a whole number from 1")
  freeze = rf"^(?!meta\.)(?!.*({TRAINED}{'' if train is None else '|' + train}))"
  adapt = functools.partial(_adapt, rank=rank, alpha=alpha, targets=targets, train=train)
  return Method(adapt, freeze, functools.partial(merge, scale=alpha / rank))


def _adapt(model: Model, *, rank: int, alpha: float, targets: str, train: str | None) -> Model:
  """`model` with the chosen linear maps replaced.

  Raises:
    ConfigError: a pattern takes nothing.
  """
  if train is not None:
    select(model.shapes, train, f"{KEY}.train")
  def make(rngs: nnx.Rngs) -> Any:
    module: Any = model.make(rngs)
    maps = {".".join(map(str, path)): path for path, node in nnx.iter_graph(module) if isinstance(node, Linear)}
    for name in sorted(select(maps, targets, f"{KEY}.targets")):
      parent: Any = module
      *above, last = maps[name]
      for part in above:
        parent = _child(parent, part)
      new = LoRALinear(rngs, _child(parent, last), rank, alpha)
      if isinstance(last, int):
        parent[last] = new
      else:
        setattr(parent, str(last), new)
    return module
  return Model.from_module(make, model.config, offers=model.offers)


def _child(node: Any, part: Any) -> Any:
  return node[part] if isinstance(part, int) else getattr(node, part)


def merge(params: Arrays, *, scale: float) -> dict[str, jax.Array]:
  """The base's parameters with kernel + scale * A B in place of each adapted kernel."""
  merged = {n: p for n, p in params.items() if not re.search(TRAINED, n)}
  for name in params:
    if name.endswith(".lora_a"):
      stem = name.removesuffix(".lora_a")
      a, b, kernel = params[name], params[f"{stem}.lora_b"], params[f"{stem}.kernel"]
      stacked = a.ndim + b.ndim - 2 - kernel.ndim
      lead = a.shape[:stacked]
      product = a.reshape(*lead, -1, a.shape[-1]) @ b.reshape(*lead, b.shape[stacked], -1)
      merged[f"{stem}.kernel"] = kernel + scale * product.reshape(kernel.shape)
  return merged
