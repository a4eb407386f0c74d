"""Many tasks at once, each with its own weights: tasks over the data axis, the examples of a task over fsdp."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from llm_jax.parallel import rules
from llm_jax.parallel.rules import MeshAxes, ShardingRules, constrain

Axes = Mapping[str, tuple[str | None, ...]]

_per_task = jax.make_user_context(default_value=False)


def per_task() -> bool:
  """Whether the caller is traced for many tasks at once, whose weights may be each task's own: what has no form for
  weights that `jax.vmap` maps over takes another."""
  return _per_task.value


def map_tasks(function: Callable[..., Any], in_axes: Any) -> Callable[..., Any]:
  """`jax.vmap(function, in_axes)`; under active rules the mapped axis is 'tasks', and inside `function` a batch is the
  examples of one task."""
  def mapped(*arguments: Any) -> Any:
    active = rules.active()
    if active is None or active.mesh.size == 1:
      with _per_task(True):
        return jax.vmap(function, in_axes)(*arguments)
    with _per_task(True), rules.use(within_task(active)):
      return jax.vmap(function, in_axes, spmd_axis_name=_names(active.table["tasks"]))(*arguments)
  return mapped


def within_task(active: ShardingRules) -> ShardingRules:
  """The rules as seen from inside one task."""
  table = {**active.table, "batch": active.table["examples"]}
  return dataclasses.replace(active, table=table, gather_weights="compiler")


def _names(target: MeshAxes) -> str | tuple[str, ...] | None:
  return target if target is None or isinstance(target, str) else tuple(target)


def like_parameters(axes: Axes, params: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """Arrays pinned to the layout of the parameters whose names they have: fast weights lie as the slow ones do."""
  return {n: constrain(p, *axes[n]) for n, p in params.items()}
