"""A pipeline over the mesh axis `stage`: each stage holds some of the layers, micro-batches follow each other through.

All stages work at once on a buffer with one micro-batch each, (S, b, ...), split over the stages: a turn applies every
stage to its own (a vmap that the compiler splits), then the buffer rolls on by one (a permutation among neighbours).
Data, FSDP, tensor and context parallelism go on inside, and the backward pass is JAX's own.

With one round this is GPipe (Huang et al. 2019). With more (circular schedule; the interleaved stages of Narayanan et
al. 2021) stage s holds runs s, S + s, 2 S + s, ... of the layers, and a micro-batch comes round once for each. The
weights lie in order on the stages, so each step then moves them once. Of its R M + S - 1 turns a stage idles S - 1.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from llm_jax.core.errors import ConfigError
from llm_jax.core.held import held
from llm_jax.parallel import rules as sharding

STAGE, FREE = "stage", PartitionSpec.UNCONSTRAINED


@dataclasses.dataclass(frozen=True)
class Schedule:
  """How a batch goes through a stack of layers."""

  stages: int
  rounds: int
  microbatches: int

  @property
  def turns(self) -> int:
    return self.rounds * self.microbatches + self.stages - 1

  @property
  def bubble(self) -> float:
    """The share of its time that a stage is idle."""
    return (self.stages - 1) / self.turns

  @property
  def runs(self) -> int:
    """Runs that the layers are cut into."""
    return self.stages * self.rounds


def schedule(rules: sharding.ShardingRules | None) -> Schedule | None:
  """The schedule of these rules; None if they have no stages.

  Raises:
    ConfigError: more than one round with fewer micro-batches than stages: one would come round before it has left.
  """
  stages = 1 if rules is None else rules.mesh.shape.get(STAGE, 1)
  if rules is None or stages == 1:
    return None
  found = Schedule(stages, rules.rounds, rules.microbatches or stages)
  if found.rounds > 1 and found.microbatches < stages:
    raise ConfigError("config.mesh.microbatches", f"{found.microbatches} micro-batches for {stages} stages and "
                      f"{found.rounds} rounds", accepted=f"at least {stages}, or config.mesh.rounds=1")
  return found


_ran: contextvars.ContextVar[list[Schedule] | None] = contextvars.ContextVar("pipelines", default=None)


@contextlib.contextmanager
def watched() -> Iterator[list[Schedule]]:
  """While tracing under this, the list that it yields gets the schedule of every pipeline that is run."""
  found: list[Schedule] = []
  with held(_ran, found):
    yield found


def run(plan: Schedule, work: Callable[[Any, Any, Any, jax.Array], tuple[Any, Any]], layers: Any, flow: Any,
        sums: Any = None) -> tuple[Any, Any]:
  """Sends the batch through the layers -> (what `flow` is after the last one, `sums`).

  Args:
    plan: the schedule.
    work: (some layers, flow, sums, number of the micro-batch) -> (flow, sums): a run of layers over one micro-batch.
    layers: pytree, leaves (N, ...), in order.
    flow: pytree, leaves (B, ...).
    sums: pytree of any arrays to which `work` adds something for each row.

  Raises:
    ConfigError: the layers do not divide into runs, or the rows into micro-batches.
  """
  if (ran := _ran.get()) is not None:
    ran.append(plan)
  S, R, M = plan.stages, plan.rounds, plan.microbatches
  chunks = jax.tree.map(lambda a: _pin(_runs(a, plan), None, STAGE), layers)  # (R, S, k, ...)
  # (M, b, ...): what enters next, and at last what has left; with sums and number of each micro-batch.
  nothing = jax.tree.map(lambda a: jnp.zeros((M, *a.shape), a.dtype), sums)
  waiting = jax.tree.map(lambda a: _micro(a, M), flow), nothing, jnp.arange(M)
  # Before the first micro-batch arrives a stage works on a copy of it, so that idle turns give finite numbers.
  on_stages = lambda state: (jax.tree.map(_pin_rows, state[0]), *jax.tree.map(lambda a: _pin(a, STAGE), state[1:]))
  buffer = on_stages(jax.tree.map(lambda a: jnp.broadcast_to(a[:1], (S, *a.shape[1:])), waiting))

  def stage(chunk: Any, state: Any, round_: jax.Array) -> Any:  # chunk (R, k, ...)
    pick = lambda a: a[0] if R == 1 else jax.lax.dynamic_index_in_dim(a, round_, keepdims=False)
    return *work(jax.tree.map(pick, chunk), *state), state[-1]

  def turn(carry: tuple[Any, Any], t: jax.Array) -> tuple[tuple[Any, Any], None]:
    waiting, buffer = carry
    enter = lambda whole, held: jnp.roll(held, 1, 0).at[0].set(whole[t % M])
    buffer = on_stages(jax.tree.map(enter, waiting, buffer))
    rounds = jnp.clip((t - jnp.arange(S)) // M, 0, R - 1)
    buffer = jax.vmap(stage, in_axes=(1, 0, 0), spmd_axis_name=STAGE)(chunks, buffer, rounds)
    out = t - (S - 1)  # its number, by rounds; negative: the last stage was idle
    leave = lambda whole, held: whole.at[out % M].set(jnp.where(out < 0, whole[out % M], held[-1]))
    return (jax.tree.map(leave, waiting, buffer), buffer), None

  (waiting, _), _ = jax.lax.scan(turn, (waiting, buffer), jnp.arange(plan.turns))
  return jax.tree.map(_whole, waiting[0]), jax.tree.map(lambda start, parts: start + parts.sum(0), sums, waiting[1])


def _runs(a: jax.Array, plan: Schedule) -> jax.Array:
  """(N, ...) -> (R, S, N / (R S), ...)."""
  if a.shape[0] % plan.runs:
    rounds = f" x {plan.rounds} rounds" if plan.rounds > 1 else ""
    raise ConfigError("config.mesh.stage", f"{a.shape[0]} layers do not divide into {plan.stages} stages{rounds}",
                      accepted=f"a divisor of {a.shape[0]}")
  return a.reshape(plan.rounds, plan.stages, a.shape[0] // plan.runs, *a.shape[1:])


def _micro(a: Any, count: int) -> jax.Array:
  """(B, ...) -> (M, B / M, ...), rows dealt round robin: each part is spread over the devices as the batch was."""
  if a.shape[0] % count:
    raise ConfigError("config.mesh.microbatches", f"{count} micro-batches do not divide {a.shape[0]} rows",
                      accepted=f"a divisor of {a.shape[0]}")
  return _pin_rows(a.reshape(a.shape[0] // count, count, *a.shape[1:]).swapaxes(0, 1), first=None)


def _whole(a: jax.Array) -> jax.Array:
  """The inverse of `_micro` for rows."""
  return a.swapaxes(0, 1).reshape(-1, *a.shape[2:])


def _pin_rows(a: jax.Array, first: str | None = STAGE) -> jax.Array:
  """(S or M, b, ...) with its rows split as a batch is; of the other dimensions nothing is said."""
  active = sharding.active()
  return a if active is None else _pin(a, first, active.spec(("batch",), (a.shape[1],), "a micro-batch")[0])


def _pin(a: jax.Array, *entries: Any) -> jax.Array:
  active = sharding.active()
  if active is None or jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
    return a
  spec = PartitionSpec(*entries, *(FREE,) * (a.ndim - len(entries)))
  return jax.lax.with_sharding_constraint(a, NamedSharding(active.mesh, spec))
