"""Sequence-length warmup: short rows first (Li et al. 2022, "The stability-efficiency dilemma"; DeepSpeed, Composer).

Lengths come in buckets, for each one is a compilation. The three published forms differ in what happens to the text:

  reshape    windows of the short length: every token is served, `tokens` per step stay what they were
  truncate   windows of the full length of which only the first tokens are kept; what is cut off is not seen that time
  reorder    rows stay as long as their documents and short documents come first: curriculum 'competence' with
             scorer 'length' over data with packing='pad'

Held-out rows are never cut, and positions are built from the row that is served.
"""

import dataclasses
from typing import Any, Literal

import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Curriculum, Plan
from llm_jax.curriculum import pacing as pacings
from llm_jax.curriculum.pacing import Pacing

Keep = Literal["tokens", "batch"]


@dataclasses.dataclass(frozen=True)
class SequenceLength(Curriculum):
  """Length by pacing, rounded down to a bucket. batch, length: of a full step."""

  batch: int
  length: int
  pacing: Pacing
  buckets: tuple[int, ...]  # ascending; the last one is `length`
  truncate: bool
  keep: Keep
  steps: int  # of the run
  sets: tuple[str, ...] = ("length", "batch", "window")

  def plan(self, step: int, state: Any) -> Plan:
    return self._plan(self._bucket(self.pacing(step)))

  def changes(self) -> list[int]:
    lengths = self._bucket(self.pacing(np.arange(self.steps)))
    return (np.flatnonzero(np.diff(lengths)) + 1).tolist()

  def _bucket(self, value: Any) -> Any:
    """The largest bucket that is not above the value."""
    place = np.searchsorted(self.buckets, np.asarray(value) + 1e-9, side="right") - 1
    return np.asarray(self.buckets)[np.maximum(place, 0)]

  def _plan(self, length: Any) -> Plan:
    length = int(length)
    batch = self.batch * self.length // length if self.keep == "tokens" else self.batch
    return Plan(batch, length, window=self.length if self.truncate and length < self.length else None)


def build(steps: int, batch: int, length: int, *, start: int = 64, until: float = 0.3,
          pacing: str | dict | list = "linear", mode: Literal["reshape", "truncate"] = "reshape",
          keep: Keep | None = None, buckets: list[int] | Literal["powers"] | int = "powers") -> SequenceLength:
  """Rows grow from `start` tokens to the run's length.

  Args:
    start: tokens per row at step 0.
    until: when the full length is reached: steps, or a fraction of the run up to 1.
    pacing: name, dict(name=..., p=...) or stages [(first step, tokens), ...]; see curriculum/pacing.py.
    mode: 'reshape' serves every token in shorter rows; 'truncate' cuts full windows.
    keep: what stays constant, 'tokens' per step or 'batch'; None is tokens for reshape, batch for truncate.
    buckets: lengths that occur: 'powers' of two times `start`, multiples of a number, or a list.

  Raises:
    ConfigError: a start above the length, or a bucket that leaves no whole batch.
  """
  if not 1 <= start <= length:
    raise ConfigError("config.curriculum.start", f"{start} tokens in a run of {length}", accepted=f"1 to {length}")
  how = pacings.build(pacing, start=start, end=length, until=until, steps=steps, key="config.curriculum.pacing")
  keep = keep or ("batch" if mode == "truncate" else "tokens")
  sizes = _buckets(buckets, start, length)
  for size in sizes:
    if keep == "tokens" and batch * length % size:
      raise ConfigError("config.curriculum.buckets", f"{batch} x {length} tokens are no whole number of rows of {size}",
                        accepted="lengths that divide the tokens of a step, or keep='batch'")
  return SequenceLength(batch, length, how, sizes, mode == "truncate", keep, steps)


def _buckets(spec: list | str | int, start: int, length: int) -> tuple[int, ...]:
  """Ascending lengths from `start` to `length`, both among them."""
  if spec == "powers":
    found = [start * 2**i for i in range(64) if start * 2**i < length]
  elif isinstance(spec, int):
    if spec < 1:
      raise ConfigError("config.curriculum.buckets", f"got {spec}", accepted="multiples of a number from 1")
    found = [start, *range(-(-start // spec) * spec, length, spec)]
  else:
    found = list(spec)
    wrong = [b for b in found if not isinstance(b, int) or not 1 <= b <= length]
    if wrong or not found:
      raise ConfigError("config.curriculum.buckets", f"got {spec}", accepted=f"lengths from 1 to {length}")
  return tuple(sorted({*found, length}))
