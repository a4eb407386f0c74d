"""The real train step compiled for a topology, and what the compiled program says about memory, time and transfers."""

import dataclasses
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import jax

from llm_jax.planning import buffers, costs
from llm_jax.planning import program as programs
from llm_jax.planning.hardware import GIB
from llm_jax.planning.topology import Topology

KERNEL_SHARE = 0.5  # of the peak, for kernels that the compiler does not estimate
METHOD = ("the compiler's own estimated cycles over the clock, plus {share:.0%} of peak for kernels, which it does not "
          "estimate: {attention:.3g} FLOPs of attention and {declared:.3g} that other kernels declare, of all devices. "
          "It is pessimistic on memory-bound work and takes transfers that run beside the computation for free: good "
          "for ranking, within tens of percent of a measurement")


@dataclasses.dataclass(frozen=True)
class Work:
  """What one step is asked to do. tokens: of the global batch; flops: of the model, forward and backward; attention:
  those of them between queries and keys; state: {kind: bytes on one device}."""

  tokens: int
  flops: float
  attention: float
  state: Mapping[str, int]


def plan(lowered: Any, topology: Topology, mesh: Any, work: Work) -> dict[str, Any]:
  """The plan of a lowered step, as JSON. What does not fit is compiled to the error that says by how much."""
  start = time.monotonic()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as e:
    if "memory" not in str(e).lower() and "hbm" not in str(e).lower():
      raise
    return {"memory": _refused(str(e), topology, work), "compile_seconds": time.monotonic() - start}
  seconds = time.monotonic() - start
  parsed = programs.parse(compiled.as_text())
  found = costs.measure(parsed, mesh)
  return {"memory": _memory(compiled.memory_analysis(), parsed, topology, work),
          "time": _time(found, topology, work),
          "collectives": found.collectives, "kernels": dict(found.kernels),
          "hottest": [{"cycles": c, "what": w, "source": s} for c, w, s in found.hottest],
          "compile_seconds": round(seconds, 1)}


def state_bytes(tree: Any) -> int:
  """Bytes that one device holds of arrays with these shapes and shardings."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    width = 4 if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize
    total += math.prod(leaf.sharding.shard_shape(leaf.shape)) * width
  return total


def peak_bytes(found: Any) -> int:
  """What the program takes by XLA's own count: arguments, results that are not arguments again, and temporaries as they
  were laid out, gaps included. What is alive at once (`peak_memory_in_bytes`) is less, and on a CPU leaves temporaries
  out."""
  parts = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
  return max(found.peak_memory_in_bytes, parts + found.temp_size_in_bytes)


def _memory(found: Any, parsed: programs.Program, topology: Topology, work: Work) -> dict[str, Any]:
  alive, largest = buffers.largest(parsed)
  peak = peak_bytes(found)
  capacity = None if topology.chip is None else int(topology.chip.memory)
  return {"by_kind": dict(work.state), "arguments": found.argument_size_in_bytes,
          "temporaries": found.temp_size_in_bytes, "peak": peak, "capacity": capacity,
          "alive": found.peak_memory_in_bytes,
          "fits": capacity is None or peak <= capacity, "listed": alive,
          "host": getattr(found, "host_temp_size_in_bytes", 0),
          "largest": [dataclasses.asdict(b) for b in largest]}


def _refused(message: str, topology: Topology, work: Work) -> dict[str, Any]:
  """The memory part of a program that the compiler refuses: its own figures and words."""
  units = {"G": GIB, "M": 2**20, "K": 2**10}
  used = re.search(r"[Uu]sed ([\d.]+)([GMK]) of ([\d.]+)([GMK])", message)
  peak = None if used is None else int(float(used.group(1)) * units[used.group(2)])
  return {"by_kind": dict(work.state), "peak": peak, "fits": False, "largest": [], "reason": message.splitlines()[:12],
          "capacity": None if topology.chip is None else int(topology.chip.memory)}


def _time(found: costs.Costs, topology: Topology, work: Work) -> dict[str, Any]:
  chip = topology.chip
  if found.cycles is None or chip is None or chip.clock is None:
    return {}
  declared = sum(kernel["flops"] for kernel in found.kernels.values())  # of one device; attention's declares none
  attention = work.attention if any("splash" in name for name in found.kernels) else 0.0
  ours = attention / topology.count + declared
  seconds = found.cycles / chip.clock + ours / (KERNEL_SHARE * chip.peak)
  moved = sum(row["bytes"] for row in found.collectives)
  return {"cycles": found.cycles, "phases": dict(found.phases), "step_seconds": seconds,
          "tokens_per_second_per_device": work.tokens / topology.count / seconds,
          "mfu": work.flops / (seconds * topology.count * chip.peak),
          "ideal_seconds": work.flops / (topology.count * chip.peak),
          "transfer_seconds_if_nothing_hides": moved / chip.link,
          "method": METHOD.format(share=KERNEL_SHARE, attention=attention, declared=declared * topology.count)}
