"""Compile time of the train step against depth: layers are scanned, so 48 must cost what 12 cost.

  python benchmarks/compile_time.py [--depths=12,48] [--repeats=3] [--out=FILE]

Tracing, lowering and XLA's compilation of the real train step (GPT, width 64, AdamW), without any cache, in alternating
order; each is given in seconds on the wall and in processor time, which other work on the machine disturbs least.
Results are JSON with the ratio of the deepest to the shallowest.
"""

import argparse
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import machine

HERE = pathlib.Path(__file__).parent
TEXT = HERE.parent / "llm_jax/data/fallback/king_james_bible.txt"
PHASES = ("trace", "lower", "compile")


def measure(depth: int) -> dict[str, float]:
  """Seconds of each phase, on the wall and of processor time."""
  import jax

  from llm_jax import experiment

  run = experiment.build(dict(
      model=dict(name="gpt", variant="debug", depth=depth),
      data=dict(name="text_folder", path=str(TEXT), domains="one", tokenizer=dict(name="bytes")),
      optimizer=dict(name="adamw", peak=1e-3), train=dict(steps=10, batch_size=4, length=32)))
  jax.clear_caches()
  batch, step = run.batch(0), run.compiled_step
  found: dict[str, float] = {}
  traced = timed(found, "trace", lambda: step.trace(run.abstract_state, batch, {}))
  lowered = timed(found, "lower", traced.lower)
  timed(found, "compile", lowered.compile)
  for kind in ("wall", "processor"):
    found[kind] = sum(found[f"{p}_{kind}"] for p in PHASES)
  return found


def timed(found: dict[str, float], name: str, call: Callable[[], Any]) -> Any:
  """The result of `call`; its time goes into `found`."""
  start, before = time.perf_counter(), time.process_time()
  result = call()
  found[f"{name}_wall"], found[f"{name}_processor"] = time.perf_counter() - start, time.process_time() - before
  return result


def main() -> None:
  """Measures every depth in turns and writes the results."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--depths", default="12,48")
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--out", default=str(HERE / "results" / "compile_time_cpu.json"))
  options = parser.parse_args()
  measured_on = machine.describe()
  os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
  import jax

  depths = [int(d) for d in options.depths.split(",")]
  seen: dict[int, list[dict[str, float]]] = {d: [] for d in depths}
  for _ in range(options.repeats):
    for depth in depths:
      seen[depth].append(measure(depth))
  medians = {d: {k: statistics.median(r[k] for r in runs) for k in runs[0]} for d, runs in seen.items()}
  ratios = {kind: medians[depths[-1]][kind] / medians[depths[0]][kind] for kind in ("wall", "processor")}
  result = {"date": time.strftime("%Y-%m-%d"), "machine": measured_on, "jax": jax.__version__,
            "seconds_by_depth": medians, "ratio": ratios}
  pathlib.Path(options.out).write_text(json.dumps(result, indent=1) + "\n")
  print(json.dumps(result, indent=1))


if __name__ == "__main__":
  main()
