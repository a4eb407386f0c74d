"""The device mesh: `config.mesh = dict(data=1, fsdp=-1, tensor=1)` becomes a `jax.sharding.Mesh`.

data: copies of the model, each with its part of the batch; fsdp: the batch is split too, and so are parameters and
optimizer state (ZeRO-3); tensor: heads, feed-forward width and vocabulary are split (Megatron). One axis may be -1:
it takes the devices that the others leave.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from llm_jax.core.errors import ConfigError, nearest_name

AXES = ("data", "fsdp", "tensor")


def sizes(spec: Mapping[str, int], devices: int, key: str = "config.mesh") -> dict[str, int]:
  """The size of every mesh axis, with -1 filled in.

  Raises:
    ConfigError: an unknown axis, two -1, or a product that is not the number of devices.
  """
  for axis, size in spec.items():
    if axis not in AXES:
      raise ConfigError(f"{key}.{axis}", f"unknown mesh axis (given {size!r})", accepted=", ".join(AXES),
                        nearest=nearest_name(axis, AXES))
    if not isinstance(size, int) or isinstance(size, bool) or (size < 1 and size != -1):
      raise ConfigError(f"{key}.{axis}", f"got {size!r}", accepted="a whole number of devices, or -1 for the rest")
  result = {axis: spec.get(axis, 1) for axis in AXES}
  open_axes = [a for a, s in result.items() if s == -1]
  if len(open_axes) > 1:
    raise ConfigError(key, f"{' and '.join(open_axes)} are both -1", accepted="at most one axis may be -1")
  fixed = math.prod(s for s in result.values() if s != -1)
  if open_axes and devices % fixed == 0:
    result[open_axes[0]] = devices // fixed
  elif fixed != devices or open_axes:
    shape = " x ".join(f"{a}={s}" for a, s in result.items() if s != 1) or "data=1"
    raise ConfigError(key, f"{shape} does not divide or fill the {devices} devices that are here",
                      accepted=f"sizes whose product is {devices}, one of them may be -1")
  return result


def make(spec: Mapping[str, int], devices: Sequence[Any] | None = None, key: str = "config.mesh") -> Mesh:
  """The mesh over all devices (or the given ones), ordered so that neighbours on an axis are neighbours in hardware."""
  devices = list(jax.devices() if devices is None else devices)
  shape = tuple(sizes(spec, len(devices), key).values())
  grid = mesh_utils.create_device_mesh(shape, devices=devices, allow_split_physical_axes=True)
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def build(*, data: int = -1, fsdp: int = 1, tensor: int = 1) -> dict[str, int]:
  """The sizes of the mesh's axes.

  Args:
    data: copies of the model, each with its part of the batch; -1 takes the devices that are left.
    fsdp: devices that share the batch and each hold a part of parameters and optimizer state (ZeRO-3).
    tensor: devices that share each layer's heads, feed-forward width and vocabulary (Megatron).
  """
  return {"data": data, "fsdp": fsdp, "tensor": tensor}
