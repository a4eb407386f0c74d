"""What the host pays for a step: dispatch of a compiled train step at about 200 arrays of state, and the host's share
of a step in the quickstart.

  python benchmarks/dispatch.py [--out=FILE]

Dispatch: the real train step (guard, AdamW, clipping, schedule, metrics as one vector, shardings, donation) of a
network of 64 tiny arrays, so that parameters, both moments and counters make about 200; the clock runs from the call to
its return, the device being idle before. Beside the wall clock stands the processor time of the calling thread, which
other work on the machine disturbs least. The share is the loop's own accounting, (time/data + time/dispatch) /
time/step, of the quickstart's model, batch and corpus. Results are JSON. The process has the allocator that the doors
bring; with LLM_JAX_MALLOC=0 it has the system's.
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

import machine

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent
ARRAYS = 64
WARM = 20


def dispatch(rounds: int = 400) -> dict[str, Any]:
  """Milliseconds of one call of the compiled step, and how many arrays its state has."""
  import jax

  step, state, batch = wide_step()
  seconds, busy = [], []
  for _ in range(WARM + rounds):
    jax.block_until_ready(state)
    start, used = time.perf_counter(), time.thread_time()
    state, _ = step(state, batch, {})
    busy.append(time.thread_time() - used)
    seconds.append(time.perf_counter() - start)
  return {"leaves": len(jax.tree.leaves(state)), **spread(seconds[WARM:], 1e3, "_ms"),
          **spread(busy[WARM:], 1e3, "_processor_ms")}


def wide_step() -> tuple[Any, Any, Any]:
  """(compiled step, state, batch) as llm_jax/experiment.py makes them, of a network of `ARRAYS` arrays."""
  import jax
  import jax.numpy as jnp

  from llm_jax.core.types import Losses
  from llm_jax.meta_learning.none import Supervised
  from llm_jax.optimizers import chain
  from llm_jax.parallel import mesh
  from llm_jax.parallel.rules import ShardingRules
  from llm_jax.training import guard, state, step

  names = [f"layer_{i:02d}.kernel" for i in range(ARRAYS)]
  shapes = {n: jax.ShapeDtypeStruct((4, 4), jnp.float32) for n in names}
  axes = dict.fromkeys(names, ("embed", "mlp"))
  rules = ShardingRules(mesh.make({}, jax.devices()[:1]))
  optimizer = chain.build_optimizer(dict(name="adamw", peak=1e-3, warmup=10), shapes, 10_000, axes=axes)
  watch = guard.build()

  def objective(apply: Any, params: Any, batch: Any, key: Any, knobs: Any) -> Losses:
    x = batch["x"]
    for n in names:
      x = jnp.tanh(x @ params[n])
    return Losses(x.sum(-1), jnp.ones(x.shape[:-1]), {})
  train_step = step.make_train_step(None, objective, Supervised(), optimizer.transform, schedule=optimizer.schedule,
                                    guard=watch)
  make = state.initializer(lambda key: {n: jax.random.normal(key, (4, 4)) for n in names}, optimizer, watch, False)
  abstract = jax.eval_shape(make, jax.random.key(0))
  places = state.shardings(abstract, rules, axes, optimizer)

  def vector_step(state: Any, batch: Any, knobs: Any) -> Any:
    state, metrics = train_step(state, batch, knobs)
    return state, jnp.stack([metrics[n] for n in sorted(metrics)])
  compiled = jax.jit(vector_step, donate_argnums=0, in_shardings=(places, None, None),
                     out_shardings=(places, rules.replicated()))
  first = jax.jit(make, out_shardings=places)(jax.random.key(0))
  return compiled, first, jax.device_put({"x": jnp.ones((2, 3, 4))}, rules.sharding(("batch",)))


def host_share(steps: int) -> dict[str, Any]:
  """The share of the quickstart's step that the host spends on data and dispatch, row by row of its metrics."""
  from llm_jax import experiment
  from llm_jax.core import config as configs
  from llm_jax.training import metrics
  from llm_jax.training.session import Session

  config = configs.load_file(str(ROOT / "configs/quickstart.py"))
  config["train"]["steps"] = steps
  for section in ("evaluation", "checkpoint", "sample"):
    config[section]["every"] = 0
  config["optimizer"]["warmup"] = 10
  with tempfile.TemporaryDirectory() as folder:
    Session(experiment.build(config), pathlib.Path(folder), lambda state: [], lambda length: 1.0).train()
    rows = [r for r in metrics.rows(folder) if "time/step" in r][1:]
  shares = [(r["time/data"] + r["time/dispatch"]) / r["time/step"] for r in rows]
  means = {name: statistics.mean(r[f"time/{name}"] for r in rows) for name in ("data", "dispatch", "step")}
  return {**spread(shares, 100, "_percent"), **{f"{n}_ms": 1e3 * v for n, v in means.items()}, "rows": len(rows)}


def spread(values: list[float], factor: float, unit: str) -> dict[str, float]:
  """Median of all, and of the best quarter, which a busy machine disturbs least."""
  best = sorted(values)[: max(len(values) // 4, 1)]
  return {f"median{unit}": factor * statistics.median(values), f"best_quarter{unit}": factor * statistics.median(best)}


def main() -> None:
  """Measures both and writes the results."""
  from llm_jax.core import allocator

  allocator.restart()
  import jax

  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--steps", type=int, default=80)
  parser.add_argument("--out", default=str(HERE / "results" / "dispatch_cpu.json"))
  options = parser.parse_args()
  result = {"date": time.strftime("%Y-%m-%d"), "machine": machine.describe(), "jax": jax.__version__,
            "allocator": allocator.name(), "dispatch": dispatch(), "quickstart_host_share": host_share(options.steps),
            "load_after": os.getloadavg()[0]}
  pathlib.Path(options.out).write_text(json.dumps(result, indent=1) + "\n")
  print(json.dumps(result, indent=1))


if __name__ == "__main__":
  main()
