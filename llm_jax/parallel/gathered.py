"""Weights that are split over `fsdp` and gathered by the program where they are used (ZeRO-3, Rajbhandari et al. 2020).

A product of rows with such a weight runs on each device over its own rows: the device gathers the weight in the dtype
of the product, and the backward pass gathers it again, so that no whole weight outlives its use. The gradient is summed
and scattered in turn along each direction in which the devices are linked, and the last sum is in the weight's own
dtype. Left to itself the compiler of a TPU sums whole gradients on every device and throws most of each away: four
times the bytes (docs/meshes.md). Where other axes of the mesh cut the work the compiler's way stays for `on_rows`;
`within` serves functions that run on each device whatever the mesh, as those of experts do.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from llm_jax.core.derivatives import plain
from llm_jax.parallel import rules

AXIS = "fsdp"
Function = Callable[[Any, jax.Array], jax.Array]  # (rows (R, ...), whole weight) -> (R, ...)
Pullback = Callable[[Any, jax.Array], jax.Array]  # (rows, gradient of the result) -> that of the whole weight


def on_rows(function: Function, rows: jax.Array, weight: jax.Array, axes: Sequence[str | None], dtype: jnp.dtype,
            pullback: Pullback | None = None) -> jax.Array:
  """function(rows, weight), with the weight gathered in `dtype` by the program where the rules say so.

  Args:
    function: treats the rows independently; works in `dtype` whatever the weight's.
    rows: (R, ...), split as a batch is.
    weight: with these logical axes.
    pullback: the gradient of the whole weight where JAX's own, which is in `dtype`, would be too coarse.
  """
  active = rules.active()
  place = None if active is None or plain() else _place(active, rows, weight, axes)
  if active is None or place is None:
    return function(rows, weight)
  # Axes of one device are named too: what is said to be whole over an axis has its gradient summed over it.
  unit = tuple(a for a, size in active.mesh.shape.items() if size == 1)
  batch = PartitionSpec((*unit, *active.over("batch")))
  split = PartitionSpec(*[None] * place, (*unit, AXIS))
  local = _gathering(function, place, weight.dtype, dtype, active.mesh, pullback)
  return jax.shard_map(local, mesh=active.mesh, in_specs=(batch, split), out_specs=batch, check_vma=False)(rows, weight)


def given(axes: Sequence[str | None], weight: jax.Array) -> tuple[tuple[str | None, ...], int | None]:
  """How a per-device function (parallel/shard.py) is given a weight with these logical axes -> (the axes by which it
  comes in parts, the dimension of it that `within` is to gather). Without the latter 'embed' comes whole."""
  active = rules.active()
  if active is not None and not plain() and active.gather_weights != "compiler" and isinstance(active.mesh, Mesh):
    place = _split(active.spec(axes, weight.shape, "weight"))
    if place is not None:
      return tuple(axes), place
  return tuple(None if axis == "embed" else axis for axis in axes), None


def within(function: Function, rows: Any, part: jax.Array, place: int, dtype: jnp.dtype,
           pullback: Pullback | None = None) -> jax.Array:
  """As `on_rows`, inside a per-device function that was given this `part` of the weight; rows: arrays in any tree."""
  active = rules.active()
  assert active is not None, "`given` names a place only under rules"
  return _gathering(function, place, part.dtype, dtype, active.mesh, pullback)(rows, part)


def _split(spec: PartitionSpec) -> int | None:
  """The dimension that `fsdp` alone splits."""
  return next((i for i, entry in enumerate(spec) if entry == AXIS), None)


def _place(active: rules.ShardingRules, rows: jax.Array, weight: jax.Array, axes: Sequence[str | None]) -> int | None:
  """The dimension of the weight that is split; None where this product is the compiler's."""
  if not active.program_gathers or rows.shape[0] % active.ways("batch"):
    return None
  return _split(active.spec(axes, weight.shape, "weight"))


def _gathering(function: Function, place: int, stored: jnp.dtype, dtype: jnp.dtype, mesh: Mesh,
               pullback: Pullback | None) -> Function:
  """One device's share: (its rows, its part of the weight) -> its rows of the result."""
  ways = links(mesh, AXIS)
  def whole(part: jax.Array, again: bool = False) -> jax.Array:
    front = jnp.moveaxis(part.astype(dtype), place, 0)
    if again:  # without a barrier the compiler would keep what the forward pass gathered
      front = jax.lax.optimization_barrier(front)
    return jnp.moveaxis(jax.lax.all_gather(front, AXIS, axis=0, tiled=True), 0, place)

  def share(gradient: jax.Array) -> jax.Array:
    front = jnp.moveaxis(gradient.astype(dtype), place, 0)
    each, rest = front.shape[0] // math.prod(ways), front.shape[1:]
    columns = math.prod(rest)
    parts = front.reshape(*ways, each, columns)
    parts = jnp.pad(parts, [(0, 0)] * len(ways) + [(0, n) for n in _missing(mesh, each, columns)])
    for direction in range(len(ways)):
      parts = parts.astype(stored) if direction == len(ways) - 1 else parts
      parts = jax.lax.psum_scatter(parts, AXIS, scatter_dimension=0, axis_index_groups=_groups(ways, direction))
    return jnp.moveaxis(parts[:each, :columns].reshape(each, *rest), 0, place)

  @jax.custom_vjp
  def run(rows: Any, part: jax.Array) -> jax.Array:
    return function(rows, whole(part))

  def forward(rows: Any, part: jax.Array) -> tuple[jax.Array, tuple[Any, jax.Array]]:
    return run(rows, part), (rows, part)

  def backward(kept: tuple[Any, jax.Array], gradient: jax.Array) -> tuple[Any, jax.Array]:
    rows, part = kept
    of_rows, of_weight = jax.vjp(function, rows, whole(part, again=True))[1](gradient)
    return of_rows, share(of_weight if pullback is None else pullback(rows, gradient))

  run.defvjp(forward, backward)
  return run


def _missing(mesh: Mesh, rows: int, columns: int) -> tuple[int, int]:
  """Rows and columns by which a part is made up to be scattered: where parts cut its tiles a TPU sums whole arrays."""
  if mesh.devices.flat[0].platform != "tpu":
    return 0, 0
  return -rows % 16, -columns % 2048 if columns > 2**15 else 0


def _groups(ways: tuple[int, ...], direction: int) -> list[list[int]] | None:
  """Numbers of the devices that differ in one direction alone; None where there is no other."""
  if len(ways) == 1:
    return None
  numbers = np.arange(math.prod(ways)).reshape(ways)
  groups: list[list[int]] = np.moveaxis(numbers, direction, -1).reshape(-1, ways[direction]).tolist()
  return groups


def links(mesh: Mesh, axis: str) -> tuple[int, ...]:
  """How many devices of a mesh axis lie along each direction of the machine, slowest first: (4, 4, 4) of 64 in a cube.

  One number where the devices have no coordinates or do not lie along them.
  """
  here = tuple(slice(None) if name == axis else 0 for name in mesh.shape)
  devices = list(mesh.devices[here].flat)
  if not all(hasattr(d, "coords") for d in devices):
    return (len(devices),)
  coordinates = np.array([d.coords for d in devices])
  wide = [i for i in range(coordinates.shape[1]) if len(set(coordinates[:, i])) > 1]
  for order in itertools.permutations(wide):
    sizes = tuple(len(set(coordinates[:, i])) for i in order)
    if math.prod(sizes) == len(devices) and all(
        _only_along(coordinates[:, i].reshape(sizes), place) for place, i in enumerate(order)):
      return sizes
  return (len(devices),)


def _only_along(values: np.ndarray, place: int) -> bool:
  """Whether the values change along one dimension alone."""
  first = np.moveaxis(values, place, 0).reshape(values.shape[place], -1)
  return bool((first == first[:, :1]).all())
