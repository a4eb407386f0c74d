"""Making the train state where it will live: sharded from the first moment, and described without allocating it."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from llm_jax.core.types import Key, Params, TrainState
from llm_jax.parallel.rules import ShardingRules
from llm_jax.training.guard import Guard


class Splits(Protocol):
  """What is asked of an optimizer here (optimizers/chain.py has it)."""

  @property
  def transform(self) -> optax.GradientTransformation: ...

  def split(self, params: Any) -> tuple[Any, Any]: ...


def initializer(init: Callable[[Key], Params], optimizer: Splits, guard: Guard, ema: bool,
                carry: Callable[[], dict[str, Any]] = dict) -> Callable[[Key], TrainState]:
  """key -> TrainState at step 0; pure, to be jitted with the shardings of `shardings`. carry: makes what is carried."""
  def make(key: Key) -> TrainState:
    init_key, run_key = jax.random.split(key)
    return from_params(init(init_key), run_key, optimizer, guard, ema, carry())
  return make


def from_params(params: Params, key: Key, optimizer: Splits, guard: Guard, ema: bool,
                carry: dict[str, Any] | None = None) -> TrainState:
  """The state at step 0 that starts from these parameters."""
  trained, frozen = optimizer.split(params)
  average = {n: p.astype(jnp.float32) for n, p in trained.items()} if ema else {}
  return TrainState(jnp.zeros((), jnp.int32), key, trained, frozen, optimizer.transform.init(trained), average,
                    guard.init(), carry or {})


def shardings(abstract: TrainState, rules: ShardingRules, logical_axes: dict[str, tuple],
              optimizer: Splits, split_state: bool = False) -> TrainState:
  """A TrainState of shardings: moments and averages lie as their parameters do, counters are on every device.

  split_state: moments and averages are split over the copies of the model too (ZeRO-1, Rajbhandari et al. 2020).
  """
  whole = rules.replicated()
  place = lambda shapes: rules.for_params({n: logical_axes[n] for n in shapes}, shapes)
  params = place(abstract.params)
  beside = rules.split_over_copies(params, abstract.params) if split_state else params
  return TrainState(
      step=whole, key=whole, params=params, frozen=place(abstract.frozen),
      opt_state=rules.for_opt_state(optimizer.transform, abstract.params, beside),
      ema={n: beside[n] for n in abstract.ema}, guard=dict.fromkeys(abstract.guard, whole),
      carry=jax.tree.map(lambda _: rules.sharding(("batch",)), abstract.carry))


def on_devices(state: TrainState, places: TrainState) -> TrainState:
  """The state with what is kept in the hosts' memory brought to the devices. For use while tracing."""
  kept = {s.memory_kind for s in jax.tree.leaves(places.params)}
  def bring(a: Any, place: Any) -> Any:
    return a if place.memory_kind in kept else jax.device_put(a, place.with_memory_kind(next(iter(kept))))
  return state.replace(opt_state=jax.tree.map(bring, state.opt_state, places.opt_state))


def with_shardings(abstract: TrainState, places: TrainState) -> TrainState:
  """ShapeDtypeStructs that say where each array lies, for a restore."""
  return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, places)
