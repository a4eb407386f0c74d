"""Which meshes a model can be laid out on: every way to cut a number of devices that its parameters and rows allow.

The rules themselves say what is legal: a layout that they refuse is left out, and an axis that would cut nothing of the
model (experts of a dense one) is never tried. `replica` is `data` by another name unless the devices are more than
the fast links join, so it is tried only there.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from llm_jax.core.errors import ConfigError
from llm_jax.parallel import mesh as device_mesh
from llm_jax.parallel.rules import ShardingRules
from llm_jax.planning.hardware import Chip
from llm_jax.planning.transfers import BATCH

CUTTING = ("fsdp", "stage", "expert", "tensor")  # the axes that must find something of the parameters to cut
MOST = {"tensor": 16, "context": 16, "stage": 16}  # beyond these each share of the work is too small to be worth it


def candidates(model: Any, chip: Chip, count: int, rows: int, length: int,
               allowed: Mapping[str, bool]) -> Iterator[dict[str, int]]:
  """Meshes of `count` devices, as {axis: size} of all axes.

  Args:
    model: core/model.py.
    rows, length: of the global batch.
    allowed: whether the network can be cut along 'stage' and 'context', which only tracing it tells.
  """
  near = min(count, chip.near)
  for sizes in _factored(count, device_mesh.AXES):
    if any(sizes[axis] > most for axis, most in MOST.items()) or any(
        sizes[axis] > 1 and not allowed[axis] for axis in allowed):
      continue
    if sizes["replica"] not in (1, count // near) or length % sizes["context"] or sizes["tensor"] > near:
      continue
    parts = math.prod(sizes[axis] for axis in BATCH) * sizes["stage"]
    if rows % parts == 0 and cuts(model, sizes, count):
      yield sizes


def cuts(model: Any, sizes: Mapping[str, int], count: int) -> bool:
  """Whether the rules allow this layout and each of its axes cuts some parameter."""
  rules = ShardingRules(device_mesh.abstract(sizes, count))  # type: ignore[arg-type]
  try:
    placed = rules.for_params(model.logical_axes, model.shapes)
  except ConfigError:
    return False
  used = {axis for sharding in placed.values() for axis in axes_of(sharding.spec)}
  return all(sizes[axis] == 1 or axis in used for axis in CUTTING)


def axes_of(spec: Any) -> frozenset[str]:
  """The mesh axes that a PartitionSpec names."""
  entries = ((entry,) if isinstance(entry, str) else entry or () for entry in spec)
  return frozenset(axis for entry in entries for axis in entry)


def _factored(count: int, axes: tuple[str, ...]) -> Iterator[dict[str, int]]:
  """Every {axis: size} whose product is `count`."""
  if len(axes) == 1:
    yield {axes[0]: count}
    return
  for size in (n for n in range(1, count + 1) if count % n == 0):
    for rest in _factored(count // size, axes[1:]):
      yield {axes[0]: size, **rest}
