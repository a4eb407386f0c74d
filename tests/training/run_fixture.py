"""A run directory as a real run leaves it, made in milliseconds: what the tests of report and notebook read."""

import math
import pathlib

import numpy as np

from llm_jax.training import machine, run_directory
from llm_jax.training.metrics import MetricsWriter
from llm_jax.training.throughput import Throughput


def learning_rate(step, steps):
  return 6e-4 * min(step / 20, 0.55 + 0.45 * math.cos(math.pi * step / steps))


def write_run(workdir: pathlib.Path, steps: int = 200, every: int = 2, device_kind: str = "cpu") -> pathlib.Path:
  """Rows, samples and documents of a run of `steps` steps; the loss falls from about 5 to about 1.7 with noise."""
  random, throughput = np.random.default_rng(0), Throughput(device_kind, 1)
  with MetricsWriter(workdir, tensorboard=False) as writer:
    for step in range(every, steps + 1, every):
      loss = 1.6 + 3.6 * math.exp(-6 * step / steps)
      seconds = 0.08 + 0.01 * random.random() + (10 if step == every else 0)
      writer.write(step, {
          "train/loss": loss + 0.05 * random.normal(), "train/learning_rate": learning_rate(step, steps),
          "train/gradient_norm": 0.4 + 3 * math.exp(-step / 20) + 0.1 * random.random(), "train/tokens": 3072 * step,
          "time/data": 0.002, "time/dispatch": 0.0004, "time/device": seconds - 0.0024, "time/elapsed": 0.09 * step,
          **throughput.measure(tokens=3072, seconds=seconds, flops_per_token=6e7)})
      if step % (20 * every) == 0:
        writer.write(step, {"eval/loss": loss + 0.1, "eval/bits_per_byte": (loss + 0.1) / math.log(2) / 3.4})
        writer.write_sample(step, "The function", f" returns the number of items at step {step}.\n")
  documents(workdir, steps)
  return workdir


def documents(workdir: pathlib.Path, steps: int) -> None:
  plan = list(range(0, steps + 1, max(1, steps // 50)))
  for name, value in {
      run_directory.CONFIG: {"seed": 0, "steps": steps, "model": {"name": "gpt", "variant": "quickstart"},
                             "optimizer": {"name": "adamw", "peak": 6e-4, "betas": [0.9, 0.95], "freeze": None}},
      run_directory.DATA: {"name": "standard_library", "domains": {"prose": {"tokens": 1000}, "code": {"tokens": 500}}},
      run_directory.MACHINE: machine.describe(),
      run_directory.PARAMETERS: [{"name": f"blocks.{part}.kernel", "shape": [6, 384, 384], "dtype": "float32",
                                  "count": 884_736} for part in ("query", "key", "value")],
      run_directory.SCHEDULES: {
          "learning_rate": {"step": plan, "value": [learning_rate(s, steps) for s in plan]},
          "mixture/prose": {"step": plan, "value": [0.7 for _ in plan], "unit": "share"},
          "mixture/code": {"step": plan, "value": [0.3 for _ in plan], "unit": "share"}},
      run_directory.STATUS: {"state": "finished", "step": steps, "total_steps": steps},
  }.items():
    run_directory.write_document(workdir, name, value)
