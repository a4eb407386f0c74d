"""What a run really takes on the devices that are here, to put beside what was planned for it."""

import time
from collections.abc import Callable
from typing import Any

import jax


def measure(run: Any, knobs: Any, steps: int = 3) -> dict[str, Any]:
  """Trains a few steps -> {by_kind: bytes that the first device holds, step_seconds, peak if the device tells}.

  run: llm_jax/run.py; knobs: of the step. The first step, which compiles, is not timed.
  """
  state = run.init_state()
  device = run.rules.mesh.local_devices[0]
  kinds = {"parameters": (state.params, state.frozen), "optimizer": state.opt_state, "average": state.ema}
  held = {kind: held_bytes(tree, device) for kind, tree in kinds.items()}
  batch = run.batch(0)
  seconds = timed(lambda s: run.compiled_step(s, batch, knobs), state, steps)
  stats = device.memory_stats() or {}
  return {"by_kind": held, "step_seconds": seconds, "peak": stats.get("peak_bytes_in_use")}


def held_bytes(tree: Any, device: Any) -> int:
  """Bytes of the parts of these arrays that lie on one device."""
  return sum(shard.data.nbytes for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards
             if shard.device == device)


def timed(step: Callable[[Any], tuple[Any, Any]], state: Any, steps: int) -> float:
  """Seconds of one step, the shortest of a few after the first."""
  best = float("inf")
  for i in range(steps + 1):
    start = time.perf_counter()
    state, metrics = step(state)
    jax.block_until_ready(metrics)
    best = min(best, time.perf_counter() - start) if i else best
  return best
