"""The process that a benchmark measures: makes its step once, then runs as many as it is told, whenever it is told.

The parent keeps one worker per contender alive and asks them in turns, so that a disturbance of the machine meets all
of them. Standard library only: workers run under different Python environments.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def read_spec() -> dict[str, Any]:
  """What this worker measures; also limits it to its number of cores. Call it before importing jax or torch."""
  spec = json.loads(sys.argv[1])
  os.sched_setaffinity(0, range(spec["threads"]))
  os.environ["OMP_NUM_THREADS"] = str(spec["threads"])
  return spec


def serve(step: Callable[[], float], versions: dict[str, str]) -> None:
  """Runs `step` (one train step -> its loss, after it has really finished) for each request of the parent."""
  start = time.perf_counter()
  losses = [step() for _ in range(3)]
  _say({"first_losses": losses, "warmup_seconds": time.perf_counter() - start, "versions": versions})
  for line in sys.stdin:
    seconds, cpu = [], time.process_time()
    for _ in range(int(line)):
      start = time.perf_counter()
      step()
      seconds.append(time.perf_counter() - start)
    _say({"seconds": seconds, "cpu_seconds": (time.process_time() - cpu) / len(seconds)})


def _say(message: dict[str, Any]) -> None:
  print("worker:" + json.dumps(message), flush=True)


class Worker:
  """The parent's end. environment: variables that the process has besides the parent's."""

  def __init__(self, python: str, script: str, spec: dict[str, Any], environment: Mapping[str, str]):
    self.process = subprocess.Popen([python, script, json.dumps(spec)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                    env={**os.environ, **environment}, text=True)
    self.ready = self._hear()
    self.seconds: list[list[float]] = []  # of each step, per round
    self.cpu_seconds: list[float] = []  # of the process, per step, per round

  def run(self, steps: int) -> None:
    """One round of `steps` train steps."""
    self.process.stdin.write(f"{steps}\n")
    self.process.stdin.flush()
    answer = self._hear()
    self.seconds.append(answer["seconds"])
    self.cpu_seconds.append(answer["cpu_seconds"])

  def close(self) -> None:
    self.process.stdin.close()
    self.process.wait()

  def _hear(self) -> dict[str, Any]:
    for line in self.process.stdout:
      if line.startswith("worker:"):
        return json.loads(line.removeprefix("worker:"))
    raise RuntimeError(f"worker stopped with exit code {self.process.wait()}")


def alternate(workers: Sequence[Worker], rounds: int, steps: int) -> None:
  """`rounds` times: every worker runs `steps` steps, in an order that turns from round to round."""
  for i in range(rounds):
    for worker in (*workers[i % len(workers):], *workers[:i % len(workers)]):
      worker.run(steps)
