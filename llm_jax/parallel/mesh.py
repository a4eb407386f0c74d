"""The device mesh: `config.mesh = dict(data=1, fsdp=-1, tensor=1)` becomes a `jax.sharding.Mesh`.

replica: copies of everything, one per slice or host group, that meet only in the sum of gradients; data: copies of the
model, each with its part of the batch; fsdp: the batch is split too, and so are parameters and optimizer state
(ZeRO-3); stage: runs of layers, one after the other (a pipeline); context: parts of every sequence; expert: the batch
is split, and so are the experts of a mixture; tensor: heads, feed-forward width and vocabulary are split (Megatron).
Slow axes come first. One axis may be -1: it takes the devices that the others leave. docs/meshes.md has the table.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from llm_jax.core.errors import ConfigError, nearest_name

AXES = ("replica", "data", "fsdp", "stage", "context", "expert", "tensor")

ContextAttention = Literal["auto", "ring", "gather", "heads"]
GatherWeights = Literal["auto", "program", "compiler"]


@dataclasses.dataclass(frozen=True)
class Options:
  """`config.mesh`: the axes' sizes as given, and how the work is cut along them."""

  auto: bool
  axes: dict[str, int]
  microbatches: int | None
  rounds: int
  context_attention: ContextAttention
  sequence_parallel: bool
  offload_optimizer: bool
  gather_weights: GatherWeights
  overrides: tuple[tuple[str, tuple[str | None, ...]], ...]


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
    raise _misfit(result, open_axes, devices, key)
  return result


def _misfit(sizes: Mapping[str, int], open_axes: Sequence[str], devices: int, key: str) -> ConfigError:
  """The sizes that are given do not divide the devices, or with no axis open do not make them."""
  given = {a: s for a, s in sizes.items() if s > 1} or {"data": 1}
  shape = " x ".join(f"{a}={s}" for a, s in given.items())
  made = f"{shape} = {math.prod(given.values())}" if len(given) > 1 else shape
  if open_axes:
    problem = f"{made} does not divide the {devices} devices that are here, of which {open_axes[0]}=-1 takes the rest"
    accepted = f"{' x '.join(given)} a divisor of {devices}"
  else:
    problem = f"{made}, but {devices} devices are here"
    accepted = f"sizes whose product is {devices}; one axis may be -1, which takes the devices that are left"
  return ConfigError(f"{key}.{next(iter(given))}", problem, accepted=accepted)


def make(spec: Mapping[str, int], devices: Sequence[Any] | None = None, key: str = "config.mesh") -> Mesh:
  """The mesh over all devices (or the given ones), ordered so that neighbours on an axis are neighbours in hardware."""
  devices = list(jax.devices() if devices is None else devices)
  shape = tuple(sizes(spec, len(devices), key).values())
  return Mesh(_grid(shape, devices, key), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def memories(mesh: Mesh) -> set[str]:
  """Kinds of memory that the mesh's devices can use; those of devices that are only described, by their platform."""
  device = mesh.devices.flat[0]
  try:
    return {memory.kind for memory in device.addressable_memories()}
  except Exception:  # a description of a device has none to ask
    return {"device", "pinned_host"} if device.platform in ("tpu", "gpu", "cuda") else {"device"}


def _grid(shape: tuple[int, ...], devices: list[Any], key: str) -> np.ndarray:
  """The devices by axis. Replicas are runs of slices, so that only their sum of gradients crosses the slow network."""
  slice_of = lambda device: getattr(device, "slice_index", None) or 0
  replicas, slices = shape[0], len({slice_of(d) for d in devices})
  if replicas > 1 and replicas % slices and slices % replicas:
    raise ConfigError(f"{key}.replica", f"{replicas} replicas over {slices} slices: one would lie on parts of two",
                      accepted=f"a divisor or a multiple of {slices}")
  ordered = sorted(devices, key=slice_of) if replicas > 1 else devices
  each = len(ordered) // replicas
  return np.concatenate([
      mesh_utils.create_device_mesh((1, *shape[1:]), devices=ordered[i:i + each], allow_split_physical_axes=True)
      for i in range(0, len(ordered), each)])


def abstract(spec: Mapping[str, int], devices: int, key: str = "config.mesh") -> AbstractMesh:
  """A mesh of so many devices that are not there: for layouts and their bytes."""
  shape = tuple(sizes(spec, devices, key).values())
  return AbstractMesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def build(*, data: int = -1, fsdp: int = 1, tensor: int = 1, stage: int = 1, context: int = 1, expert: int = 1,
          replica: int = 1, microbatches: int | None = None, rounds: int = 1,
          context_attention: ContextAttention = "auto", sequence_parallel: bool = True,
          offload_optimizer: bool = False, gather_weights: GatherWeights = "auto", auto: bool = False,
          overrides: tuple = ()) -> Options:
  """The sizes of the mesh's axes, and how the work is cut along them.

  Args:
    data: copies of the model, each with its part of the batch; -1 takes the devices that are left.
    fsdp: devices that share the batch and each hold a part of parameters and optimizer state (ZeRO-3).
    tensor: devices that share each layer's heads, feed-forward width and vocabulary (Megatron).
    stage: stages of a pipeline; each holds a run of the layers.
    context: parts that every sequence is cut into (context parallelism).
    expert: devices that share the experts of a mixture; the batch is split over them too.
    replica: copies of all the rest across slices or groups of hosts: the slow axis.
    microbatches: parts of a batch that follow each other through the pipeline; None is one for each stage.
    rounds: how often a micro-batch goes round the stages; each then holds so many shorter runs of layers, and the
      pipeline idles less (circular schedule). 1 is GPipe.
    context_attention: how a query sees keys of other parts: 'ring' passes keys and values round, 'gather' collects
      them, 'heads' trades parts of the sequence for parts of the heads (Ulysses); 'auto' is 'ring' where it can be.
    sequence_parallel: between attention and feed-forward, devices of `tensor` each hold a part of the sequence
      (Korthikanti et al. 2022).
    offload_optimizer: keep the optimizer's state in the memory of the hosts between steps.
    gather_weights: who gathers weights that are split over `fsdp` and scatters their gradients: 'program', at each
      use, along the links of the machine (only beside `data` and `replica`), or 'compiler'; 'auto' is 'program' where
      it can be.
    auto: let the planner choose the sizes of the axes and the micro-batches of a pipeline for the devices of the run;
      those given are not read.
    overrides: pairs (regular expression over parameter names, logical axes), for what should lie otherwise; the last
      that matches counts.
  """
  for name, value in dict(microbatches=1 if microbatches is None else microbatches, rounds=rounds).items():
    if value < 1:
      raise ConfigError(f"config.mesh.{name}", f"got {value}", accepted="a whole number from 1")
  axes = dict(replica=replica, data=data, fsdp=fsdp, stage=stage, context=context, expert=expert, tensor=tensor)
  return Options(auto, axes, microbatches, rounds, context_attention, sequence_parallel,
                 offload_optimizer, gather_weights, tuple(_override(i, pair) for i, pair in enumerate(overrides)))


def _override(index: int, pair: Any) -> tuple[str, tuple[str | None, ...]]:
  if not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)
          and isinstance(pair[1], tuple | list) and all(a is None or isinstance(a, str) for a in pair[1])):
    raise ConfigError(f"config.mesh.overrides[{index}]", f"got {pair!r}",
                      accepted="a pair: (pattern, one logical axis or None for each dimension)")
  return pair[0], tuple(pair[1])
