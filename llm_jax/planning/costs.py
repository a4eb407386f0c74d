"""What one step of a compiled program costs: the compiler's estimated cycles, kernels, collectives by mesh axis.

The TPU compiler writes `estimated_cycles` on what it schedules. Their sum, weighted by the trips of the loops around,
is repeatable and good for ranking two programs for one chip. It holds neither Pallas kernels nor asynchronous
transfers, which are therefore counted on their own; whether a collective hides behind the computation is not modelled.
"""

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from llm_jax.planning.program import ARRAY, Instruction, Program, type_bytes

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
               "collective-broadcast")


@dataclasses.dataclass(frozen=True)
class Costs:
  """cycles: estimated, None if the compiler gives none; phases: cycles of forward, backward, recomputed, other;
  hottest: (cycles, what, source); kernels: {name: {calls, flops, bytes}}; collectives: one row per operation and mesh
  axes, with how often it runs and the bytes of its results on one device."""

  cycles: int | None
  phases: Mapping[str, int]
  hottest: list[tuple[int, str, str]]
  kernels: Mapping[str, Mapping[str, int]]
  collectives: list[dict[str, Any]]


def measure(program: Program, mesh: Mesh | None = None) -> Costs:
  """The costs of one step. mesh: names the axes that collectives run over."""
  total, estimated = 0, False
  phases: collections.Counter = collections.Counter()
  hottest: collections.Counter = collections.Counter()
  kernels: dict[str, dict[str, int]] = {}
  found = _Collectives(mesh)
  for instruction, times, _ in program.executed():
    cycles = re.search(r'"estimated_cycles":"(-?\d+)"', instruction.text)
    if cycles:
      estimated = True
      spent = int(cycles.group(1)) * times
      total += spent
      phases[_phase(instruction.source_name)] += spent
      what = f"{instruction.op} x{times} {re.sub(r'{[^{}]*}', '', instruction.type)[:60]}"
      hottest[(what, program.source(instruction))] += spent
    if instruction.op == "custom-call" and "tpu_custom_call" in instruction.text:
      _count_kernel(kernels, instruction, times)
    found.add(instruction, times, "")
    if instruction.op in ("fusion", "async-start"):
      for inner, computation in program.inside(instruction):
        found.add(inner, times, computation)
  ranked = [(spent, what, source) for (what, source), spent in hottest.most_common(20)]
  return Costs(total if estimated else None, dict(phases), ranked, kernels, found.rows())


def _phase(name: str) -> str:
  if "rematted_computation" in name or "/remat" in name:
    return "recomputed"
  return "backward" if "transpose(" in name else "forward" if "jvp(" in name else "other"


def _count_kernel(kernels: dict[str, dict[str, int]], call: Instruction, times: int) -> None:
  entry = kernels.setdefault(re.sub(r"[.\d]+$", "", call.name), {"calls": 0, "flops": 0, "bytes": 0})
  entry["calls"] += times
  estimate = re.search(r'"cost_estimate":\{([^}]*)\}', call.text)
  for key, name in (("flops", "flops"), ("bytes", "bytes_accessed")):
    value = re.search(rf'"{name}":"?(\d+)', estimate.group(1)) if estimate else None
    entry[key] += int(value.group(1)) * times if value else 0


class _Collectives:
  """Collectives seen so far. One that the compiler spreads over several fusions counts once."""

  def __init__(self, mesh: Mesh | None):
    self._groups = {} if mesh is None else axis_groups(mesh)
    self._found: dict[tuple, tuple[int, int, str, str]] = {}

  def add(self, instruction: Instruction, times: int, computation: str) -> None:
    op = re.sub(r"-(start|done|update)$", "", instruction.op)
    if op not in COLLECTIVES or instruction.op.endswith(("-done", "-update")):
      return
    if op == "all-reduce" and computation.startswith("all-reduce-scatter"):  # a TPU's spelling of reduce-scatter
      op = "reduce-scatter"
    size = type_bytes(instruction.type)
    if instruction.op.endswith("-start") and instruction.type.startswith("("):  # (operand, result, ...)
      size = max(type_bytes(f"{d}[{s}]") for d, s, _ in ARRAY.findall(instruction.type))
    channel = re.search(r"channel_id=(\d+)", instruction.text)
    spread = (channel.group(1) if channel else "", instruction.source_name, instruction.type)
    key = (op, *spread) if computation else (op, instruction.name)
    before = self._found.get(key, (0, 0, "", ""))
    self._found[key] = (max(times, before[0]), max(size, before[1]), op, self._axes(instruction))

  def _axes(self, instruction: Instruction) -> str:
    group = first_group(instruction.text)
    if group is None:
      return "?"
    named = self._groups.get(frozenset(group))
    if named is None:
      inside = [name for g, name in self._groups.items() if frozenset(group) < g]
      named = f"part of {inside[0]}" if inside else f"{len(group)} devices"
    return named

  def rows(self) -> list[dict[str, Any]]:
    sums: dict[tuple[str, str], list[int]] = collections.defaultdict(lambda: [0, 0])
    for times, size, op, axes in self._found.values():
      sums[op, axes][0] += times
      sums[op, axes][1] += times * size
    return [{"op": op, "axes": axes, "count": count, "bytes": size}
            for (op, axes), (count, size) in sorted(sums.items(), key=lambda item: -item[1][1])]


def axis_groups(mesh: Mesh) -> dict[frozenset[int], str]:
  """{positions in the mesh that a collective over some axes joins with position 0: those axes}, fewest axes first."""
  positions = np.arange(mesh.size).reshape(tuple(mesh.shape.values()))
  wide = [a for a, size in mesh.shape.items() if size > 1]
  found: dict[frozenset[int], str] = {}
  for count in range(1, len(wide) + 1):
    for axes in itertools.combinations(wide, count):
      at = tuple(slice(None) if a in axes else 0 for a in mesh.shape)
      found.setdefault(frozenset(positions[at].ravel().tolist()), " x ".join(axes))
  return dict(sorted(found.items(), key=lambda item: len(item[0])))


def first_group(text: str) -> list[int] | None:
  """The devices that a collective joins with device 0, from its attributes; None if they do not say."""
  listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
  if listed:
    return [int(d) for d in listed.group(1).split(",")]
  tiled = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
  if tiled:
    groups, shape, order = ([int(d) for d in (part or "").split(",") if d] for part in tiled.groups())
    ids = np.arange(math.prod(shape)).reshape(shape)
    ids = ids.transpose(order) if order else ids
    return ids.reshape(groups)[0].tolist() if len(groups) == 2 else ids.ravel().tolist()
  meshed = re.search(r"replica_groups=mesh\[([^\]]*)\](?: \{([^}]*)\})?", text)
  if meshed:
    sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", meshed.group(1))}
    over = re.findall(r"'([^']+)'", meshed.group(2) or "") or list(sizes)
    ids = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
    plain = all(a in sizes for a in over)  # a part of an axis is written otherwise: its devices are not read
    return ids[tuple(slice(None) if a in over else 0 for a in sizes)].ravel().tolist() if plain else None
  pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", text)
  if pairs:
    return _cycle([(int(a), int(b)) for a, b in re.findall(r"(\d+),(\d+)", pairs.group(1))])
  return None


def _cycle(pairs: list[tuple[int, int]]) -> list[int]:
  """The devices that messages from the first pair's sender reach."""
  after = dict(pairs)
  seen = [pairs[0][0]]
  while (following := after.get(seen[-1])) is not None and following not in seen:
    seen.append(following)
  return sorted(seen)
