"""AdaLoRA's budget of triplets: what happens after every update, as a part of the optimizer (Zhang et al. 2023, 3.2-3).

    I = |w * dL/dw|,   S = b1 S + (1 - b1) I,   U = b2 U + (1 - b2) |I - S|,   score of a weight = S * U

with w after the update and the gradient of the mean loss before clipping. A triplet's score is that of its E plus the
means of those of its column of A and of its row of B. In update t of T, with t_i updates first and t_f last,

    triplets left = n_final + (n - n_final) * (1 - (t - t_i) / (T - t_f - t_i))^3

and of all triplets of the network those with the lowest scores get E = 0. Until update T - t_f one of them may come
back when its E moves and its score has risen; from then on those that are out stay out. S and U lie in the optimizer's
state, so a checkpoint has them, and an update that the guard skips changes nothing of them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from llm_jax.core.errors import ConfigError
from llm_jax.peft.adapted import KEY

LEAVES = (".adalora_a", ".adalora_b", ".adalora_e")
Trained = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Budget:
  """Triplets of a map at the start and at the end; see `adalora.build` for the others."""

  rank: int
  final_rank: int
  first: float
  last: float
  every: int
  sensitivity: float
  uncertainty: float

  def check(self) -> None:
    """Raises:
      ConfigError: a number that cannot be.
    """
    for name in ("first", "last"):
      if getattr(self, name) < 0:
        raise ConfigError(f"{KEY}.{name}", f"got {getattr(self, name):g}", accepted="a number from 0")
    for name in ("sensitivity", "uncertainty"):
      if not 0 < getattr(self, name) < 1:
        raise ConfigError(f"{KEY}.{name}", f"got {getattr(self, name):g}", accepted="a number between 0 and 1")

  def phases(self, steps: int) -> tuple[int, int]:
    """(updates before the first allocation, the update of the last) of a run.

    Raises:
      ConfigError: no update is left between them.
    """
    first, last = (int(x * steps) if x < 1 else int(x) for x in (self.first, self.last))
    if first >= steps - last:
      raise ConfigError(f"{KEY}.first", f"{first} updates first and {last} last leave none of {steps} between them",
                        accepted=f"less than {steps - last}")
    return first, steps - last

  def left(self, update: jax.Array, first: int, end: int, maps: int) -> jax.Array:
    """int32: triplets of all maps after this update (counted from 1)."""
    start, final = self.rank * maps, self.final_rank * maps
    share = 1.0 - (update - first) / (end - first)
    found = jnp.floor((start - final) * share**3 + final).astype(jnp.int32)
    return jnp.where(update <= first, start, jnp.where(update >= end, final, found))


class Allocation(NamedTuple):
  """The state: that of the optimizer itself, the updates made, S and U of every trained array."""

  inner: Any
  updates: jax.Array
  smoothed: Any
  distance: Any


def allocating(inner: optax.GradientTransformation, steps: int, *, budget: Budget) -> optax.GradientTransformation:
  """`inner`, after whose updates triplets lose their E. steps: updates of the run.

  Raises:
    ConfigError: see `Budget.phases`.
  """
  first, end = budget.phases(steps)
  def init(params: Any) -> Allocation:
    zeros = lambda: jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    return Allocation(inner.init(params), jnp.zeros((), jnp.int32), zeros(), zeros())

  def update(grads: Trained, state: Allocation, params: Trained | None = None) -> tuple[Any, Allocation]:
    assert params is not None
    moves, inner_state = inner.update(grads, state.inner, params)
    number = state.updates + 1
    new = {n: params[n] + moves[n] for n in params if n.endswith(LEAVES)}
    smoothed, distance = averages(new, grads, state, budget)
    going = number < end
    smoothed, distance = (jax.tree.map(lambda a, b: jnp.where(going, a, b), *pair) for pair in (
        (smoothed, state.smoothed), (distance, state.distance)))
    keep = kept(scores(smoothed, distance), number, budget, first, end)
    moves = dict(moves)
    for stem, mask in keep.items():
      name = f"{stem}{LEAVES[2]}"
      mask = jnp.where(number > end, params[name] != 0, mask)
      moves[name] = jnp.where(mask, moves[name], -params[name].astype(moves[name].dtype))
    return moves, Allocation(inner_state, number, smoothed, distance)
  return optax.GradientTransformation(init, update)


def averages(new: Trained, grads: Trained, state: Allocation, budget: Budget) -> tuple[Trained, Trained]:
  """S and U after an update; those of arrays that are of no triplet stay zero."""
  b1, b2 = budget.sensitivity, budget.uncertainty
  smoothed, distance = dict(state.smoothed), dict(state.distance)
  for name, value in new.items():
    now = jnp.abs(value.astype(jnp.float32) * grads[name].astype(jnp.float32))
    smoothed[name] = b1 * smoothed[name] + (1.0 - b1) * now
    distance[name] = b2 * distance[name] + (1.0 - b2) * jnp.abs(now - smoothed[name])
  return smoothed, distance


def scores(smoothed: Trained, distance: Trained) -> dict[str, jax.Array]:
  """{map: scores of its triplets (*layers, rank)}."""
  found = {}
  for name in smoothed:
    if name.endswith(LEAVES[2]):
      stem = name.removesuffix(LEAVES[2])
      a, b, e = (smoothed[stem + leaf] * distance[stem + leaf] for leaf in LEAVES)
      lead, rank = e.shape[:-1], e.shape[-1]
      found[stem] = e + a.reshape(*lead, -1, rank).mean(-2) + b.reshape(*lead, rank, -1).mean(-1)
  return found


def kept(scores: Mapping[str, jax.Array], update: jax.Array, budget: Budget, first: int,
         end: int) -> dict[str, jax.Array]:
  """{map: which of its triplets are left after this update}: all where nothing is allocated."""
  every = jnp.sort(jnp.concatenate([s.reshape(-1) for s in scores.values()]))
  out = every.size - budget.left(update, first, end, every.size // budget.rank)
  allocates = (update > first) & ((update % budget.every == 0) | (update == end)) & (out > 0)
  bar = jnp.where(allocates, every[jnp.maximum(out - 1, 0)], -1.0)  # scores are not negative
  return {stem: score > bar for stem, score in scores.items()}
