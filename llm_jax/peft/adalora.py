"""AdaLoRA (Zhang et al. 2023): LoRA in the form of a singular value decomposition, whose rank moves to where it counts.

    y = x W + alpha / (rank + 1e-5) * x A diag(E) B,   A (in, rank), B (rank, out) ~ N(0, 0.02^2), E = 0

A column of A, its E and its row of B are one triplet. Every map starts with `rank` of them; while the run goes on the
least important triplets of the whole network lose their E, until `final_rank` are left per map (peft/rank_budget.py).
The loss gains `orthogonality` times the mean over all A and B of |A^T A - I| and |B B^T - I| (Frobenius; equation 4
without the square, as Hugging Face's peft has it), so that triplets stay apart and can be judged one by one.
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
from llm_jax.core.output import Output
from llm_jax.core.types import Mean
from llm_jax.layers.linear import Linear, linear
from llm_jax.peft import rank_budget
from llm_jax.peft.adapted import (
    KEY,
    Arrays,
    Method,
    become,
    check_train,
    frozen_but,
    replace_linears,
    take_over,
    with_calls,
)

TRAINED = r"\.adalora_[abe]$"


class AdaLoRALinear(Linear):
  """A Linear with a product of three beside its kernel; arrays as LoRA's, and E (rank,)."""

  def __init__(self, rngs: nnx.Rngs, base: Linear, rank: int, alpha: float):
    axes, ins, lead = take_over(self, base)
    self.scale = scale_of(rank, alpha)
    normal = lambda *shape: 0.02 * jax.random.normal(rngs.params(), (*lead, *shape), jnp.float32)
    self.adalora_a = nnx.Param(normal(*base.inputs, rank), axes=(*axes[:ins], None))
    self.adalora_b = nnx.Param(normal(rank, *base.outputs), axes=(None, *axes[ins:]))
    self.adalora_e = nnx.Param(jnp.zeros((*lead, rank), jnp.float32), axes=(None,))

  def __call__(self, x: jax.Array, factor: float | None = None) -> jax.Array:
    rows, columns = math.prod(self.inputs), math.prod(self.outputs)
    flat = x.reshape(*x.shape[: x.ndim - len(self.inputs)], rows)
    thin = linear(flat, self.adalora_a[...].reshape(rows, -1)) * self.adalora_e[...].astype(x.dtype)
    added = linear(thin, self.adalora_b[...].reshape(-1, columns)) * self.scale
    added = added if factor is None else added * factor
    return super().__call__(x, factor) + added.reshape(*flat.shape[:-1], *self.outputs).astype(x.dtype)

  def covariances(self) -> tuple[jax.Array, jax.Array]:
    """A^T A and B B^T of every layer, each (layers, rank, rank)."""
    rank = self.adalora_e.shape[-1]
    a = self.adalora_a[...].reshape(-1, math.prod(self.inputs), rank)
    b = self.adalora_b[...].reshape(-1, rank, math.prod(self.outputs))
    return jnp.einsum("nir,nis->nrs", a, a), jnp.einsum("nro,nso->nrs", b, b)


class Orthogonal(nnx.Module):
  """A network whose output's auxiliary loss has the orthogonality of its triplets; metric 'adalora_rank', the mean
  number of triplets of a map whose E is not zero. The other half of its class is the network's own."""

  def __call__(self: Any, *arguments: Any, **others: Any) -> Output:
    return with_term(self, super().__call__(*arguments, **others))


class OrthogonalPair(Orthogonal):
  """The same of a generator and a discriminator that one objective calls both. The term of all triplets comes with the
  generator's output, which counts 1 in that loss (objectives/replaced_token.py), and so do its metrics."""

  def generator(self: Any, *arguments: Any, **others: Any) -> Output:
    return with_term(self, super().generator(*arguments, **others))  # type: ignore[misc]


def with_term(network: Any, output: Output) -> Output:
  """The output with the orthogonality of the network's triplets and how many of them are left."""
  weight, fused = network.orthogonality
  maps = {".".join(map(str, path)): node for path, node in nnx.iter_graph(network) if isinstance(node, AdaLoRALinear)}
  if weight:
    output.auxiliary = output.auxiliary + weight * orthogonality(maps, fused)
  values = [node.adalora_e[...] for node in maps.values()]
  count = sum(e.size // e.shape[-1] for e in values)
  left = sum((jax.lax.stop_gradient(e) != 0).sum() for e in values)
  rank = Mean(jnp.asarray(left, jnp.float32), jnp.asarray(count, jnp.float32))
  output.metrics = {**output.metrics, "adalora_rank": rank}
  return output


def orthogonality(maps: dict[str, AdaLoRALinear], fused: str | None) -> jax.Array:
  """Mean of |A^T A - I| and |B B^T - I| over the A and B of all maps; of maps that are fused, the outputs of their B
  stand side by side and their A count as one."""
  groups: dict[str, list[tuple[jax.Array, jax.Array]]] = {}
  for name, node in maps.items():
    groups.setdefault(name if fused is None else re.sub(fused, "", name), []).append(node.covariances())
  total: Any = 0.0
  count = 0
  for members in groups.values():
    eye = jnp.eye(members[0][0].shape[-1])
    total = total + sum(_norms(a - eye).sum() for a, _ in members) / len(members)
    total = total + _norms(sum(b for _, b in members) - eye).sum()
    count += 2 * members[0][0].shape[0]
  return total / count


def _norms(x_NRR: jax.Array) -> jax.Array:
  """(N,) Frobenius norms, with a gradient of zero at zero."""
  squares_N = jnp.square(x_NRR).sum((-1, -2))
  return jnp.where(squares_N > 0, jnp.sqrt(jnp.where(squares_N > 0, squares_N, 1.0)), 0.0)


def scale_of(rank: int, alpha: float) -> float:
  """What the product counts."""
  return alpha / (rank + 1e-5)


def build(*, rank: int = 12, final_rank: int = 8, alpha: float = 32.0, targets: str = r"attention\.(query|value)$",
          train: str | None = None, first: float = 0.1, last: float = 0.2, every: int = 10,
          sensitivity: float = 0.85, uncertainty: float = 0.85, orthogonality: float = 0.5,
          fused: str | None = None) -> Method:
  """AdaLoRA.

  Args:
    rank: triplets that a map starts with.
    final_rank: triplets that are left per map on average; a single map may keep all or none of its own.
    alpha: the product counts alpha / rank.
    targets: regular expression over the names of linear maps, e.g. 'blocks.attention.query'; '.' takes all.
    train: regular expression of further parameters to train (norms, biases, a head); None trains the triplets only.
    first: updates before the first triplet is taken: their number, or the fraction of the run if below 1.
    last: updates after the last, in the same way; the number falls between by a cube.
    every: updates from one allocation to the next.
    sensitivity: decay of the average of |weight * gradient|.
    uncertainty: decay of the average of its distance from that average.
    orthogonality: weight of the term in the loss.
    fused: regular expression; maps whose names differ only in what it takes are one to that term, as query, key and
      value are in folders that hold them as one.
  """
  for name, value in dict(rank=rank, final_rank=final_rank, every=every).items():
    if value < 1:
      raise ConfigError(f"{KEY}.{name}", f"got {value}", accepted="a whole number from 1")
  if final_rank > rank:
    raise ConfigError(f"{KEY}.final_rank", f"{final_rank}, more than the rank of {rank}", accepted=f"up to {rank}")
  if orthogonality < 0:
    raise ConfigError(f"{KEY}.orthogonality", f"got {orthogonality:g}", accepted="a number from 0")
  budget = rank_budget.Budget(rank, final_rank, first, last, every, sensitivity, uncertainty)
  budget.check()
  knobs = dict(rank=rank, final_rank=final_rank, alpha=alpha, targets=targets, train=train, first=first, last=last,
               every=every, sensitivity=sensitivity, uncertainty=uncertainty, orthogonality=orthogonality, fused=fused)
  adapt = functools.partial(_adapt, rank=rank, alpha=alpha, targets=targets, train=train,
                            orthogonality=(orthogonality, fused))
  return Method(adapt, frozen_but(TRAINED, train), functools.partial(merge, alpha=alpha), "adalora", knobs,
                updates=functools.partial(rank_budget.allocating, budget=budget))


def _adapt(model: Model, *, rank: int, alpha: float, targets: str, train: str | None,
           orthogonality: tuple[float, str | None]) -> Model:
  check_train(model, train)
  adapted = replace_linears(model, targets, lambda rngs, base, name: AdaLoRALinear(rngs, base, rank, alpha))
  def make(rngs: nnx.Rngs) -> Any:
    module: Any = adapted.make(rngs)
    module.orthogonality = orthogonality
    kind: Any = type(module)
    return become(module, with_calls(OrthogonalPair if hasattr(kind, "generator") else Orthogonal, kind))
  return Model.from_module(make, model.config, offers=model.offers)


def merge(params: Arrays, *, alpha: float) -> dict[str, jax.Array]:
  """The base's parameters with kernel + scale * A diag(E) B in place of each adapted kernel."""
  merged = {n: p for n, p in params.items() if not re.search(TRAINED, n)}
  for name, e in params.items():
    if name.endswith(".adalora_e"):
      stem = name.removesuffix(".adalora_e")
      a, b, kernel = params[f"{stem}.adalora_a"], params[f"{stem}.adalora_b"], params[f"{stem}.kernel"]
      lead, rank = e.shape[:-1], e.shape[-1]
      product = (a.reshape(*lead, -1, rank) * e[..., None, :]) @ b.reshape(*lead, rank, -1)
      merged[f"{stem}.kernel"] = kernel + scale_of(rank, alpha) * product.reshape(kernel.shape)
  return merged
