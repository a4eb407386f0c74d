"""Batch-size warmup: few examples per step first (Smith et al. 2018; GPT-3 grew its batch over the first tokens)."""

import dataclasses
from typing import Any

import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Curriculum, Plan
from llm_jax.curriculum import pacing as pacings
from llm_jax.curriculum.pacing import Pacing


@dataclasses.dataclass(frozen=True)
class BatchSize(Curriculum):
  """Batch by pacing, rounded down to a multiple; length: of every step."""

  batch: int
  length: int
  pacing: Pacing
  multiple: int
  steps: int  # of the run
  sets: tuple[str, ...] = ("batch",)

  def plan(self, step: int, state: Any) -> Plan:
    return Plan(int(self._rounded(self.pacing(step))), self.length)

  def changes(self) -> list[int]:
    return (np.flatnonzero(np.diff(self._rounded(self.pacing(np.arange(self.steps))))) + 1).tolist()

  def _rounded(self, value: Any) -> Any:
    low = np.maximum(np.floor(np.asarray(value) / self.multiple + 1e-9), 1) * self.multiple
    return np.where(np.asarray(value) >= self.batch, self.batch, np.minimum(low, self.batch))


def build(steps: int, batch: int, length: int, *, start: int = 8, until: float = 0.3,
          pacing: str | dict | list = "linear", multiple: int | None = None) -> BatchSize:
  """The global batch grows from `start` examples to the run's batch size.

  Args:
    start: examples at step 0.
    until: when the full batch is reached: steps, or a fraction of the run up to 1.
    pacing: name, dict(name=..., p=...) or stages [(first step, examples), ...]; see curriculum/pacing.py.
    multiple: batches are multiples of this (each size is a compilation); None is `start`.

  Raises:
    ConfigError: a start above the batch, or a multiple below 1.
  """
  if not 1 <= start <= batch:
    raise ConfigError("config.curriculum.start", f"{start} examples in a run of {batch}", accepted=f"1 to {batch}")
  multiple = start if multiple is None else multiple
  if multiple < 1:
    raise ConfigError("config.curriculum.multiple", f"got {multiple}", accepted="a whole number from 1")
  how = pacings.build(pacing, start=start, end=batch, until=until, steps=steps, key="config.curriculum.pacing")
  return BatchSize(batch, length, how, multiple, steps)
