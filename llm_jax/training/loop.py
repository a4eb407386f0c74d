"""The training loop: batches in, steps out, and everything that happens between steps in one fixed order.

After update n: metrics, evaluation, samples, checkpoint. A checkpoint of n therefore holds all work up to n, and a
resume repeats nothing and skips nothing. The host never waits for the step that it has just dispatched: numbers are
read from two steps back, when they are ready anyway.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from llm_jax.core.errors import DivergedError, LlmJaxError, RestartError
from llm_jax.core.types import Batch, Curriculum, Plan, TrainState
from llm_jax.training import faults, interval, profiler
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.early_stopping import EarlyStopping
from llm_jax.training.metrics import MetricsWriter
from llm_jax.training.preemption import Preemption
from llm_jax.training.progress import Progress
from llm_jax.training.step import knobs_of
from llm_jax.training.throughput import Throughput
from llm_jax.training.watchdog import Watchdog

IN_FLIGHT = 2  # steps dispatched whose metrics have not been read


@dataclasses.dataclass(frozen=True)
class Timetable:
  """When things happen, in updates; 0 is never (the last update counts as all of them)."""

  steps: int
  log: int
  evaluate: int
  sample: int
  save: int

  def due(self, every: int, done: int) -> bool:
    """Is something that happens `every` so many updates due after `done` of them?"""
    return every > 0 and (done % every == 0 or done == self.steps)


@dataclasses.dataclass
class Position:
  """What a resume needs beside the arrays: it goes into the checkpoint as JSON."""

  curriculum: Any
  observed: list[Any] = dataclasses.field(default_factory=list)  # [step, metrics] that the curriculum has not seen yet
  sums: interval.Sums = dataclasses.field(default_factory=interval.Sums)
  tokens: int = 0
  pending: list[str] = dataclasses.field(default_factory=list)  # side work due at the last update but not done
  early_stopping: dict[str, float] = dataclasses.field(default_factory=dict)
  finished: bool = False

  @classmethod
  def from_json(cls, saved: Mapping[str, Any]) -> "Position":
    """The position that `dataclasses.asdict` wrote."""
    return cls(**{**saved, "sums": interval.Sums.from_json(saved["sums"])})


class Batches(Iterator[tuple[int, Plan, Batch]], Protocol):
  """(step, plan, batch on the devices), in the order of the steps. prepare: the devices are busy, now is the time to
  make the next one, if it can be made early. close: no more are wanted."""

  def prepare(self) -> None: ...

  def close(self) -> None: ...


@dataclasses.dataclass
class Loop:
  """The parts of one run, wired by experiment.py, and the order in which they act.

  step: (state, batch, knobs) -> (state, vector of metrics in the order of `names`), jitted, donating the state.
  batches: (first step, position) -> the batches from there on. evaluate: state -> {name: value}.
  sample: state -> [(prompt, text)]. describe_batch: (step, plan) -> which data that was, for a report of failure.
  """

  timetable: Timetable
  step: Callable[[TrainState, Batch, Mapping[str, Any]], tuple[TrainState, jax.Array]]
  names: tuple[str, ...]
  curriculum: Curriculum
  batches: Callable[[int, Position], Batches]
  evaluate: Callable[[TrainState], dict[str, float]]
  sample: Callable[[TrainState], list[tuple[str, str]]]
  checkpoints: Checkpoints
  writer: MetricsWriter
  progress: Progress
  throughput: Throughput
  flops_per_token: Callable[[int], float]
  bits_per_byte: float | None  # factor from nats per token
  max_skips: int
  early_stopping: EarlyStopping | None
  extra: Mapping[str, Any]  # goes into every checkpoint beside the position
  profile: profiler.Window
  watchdog: Watchdog
  preemption: Preemption
  describe_batch: Callable[[int, Plan], str] = lambda step, plan: f"step {step}"

  def run(self, state: TrainState, position: Position) -> TrainState:
    """Trains to the end.

    Raises:
      RestartError: a signal asked for a stop; a checkpoint was written. DivergedError: too many updates in a row were
        skipped; a checkpoint was written. CheckpointError: a save failed.
    """
    self._clock, self._started = interval.Clock(), time.perf_counter()
    self._flying: collections.deque[tuple[int, Plan, jax.Array]] = collections.deque()
    self._shapes: set[tuple[int, int]] = set()
    self._skipped: list[str] = []
    self._diverged: list[str] = []  # what is said of it, once `max_skips` updates in a row were skipped
    self._position = position
    done = int(state.step)
    with self.watchdog, self.preemption:
      self._judge_again(done)
      measured = self._side_work(state, done, position.pending)
      if measured and self._keeps(done):
        self.checkpoints.record(done, measured)
      position.pending = []
      if not position.finished and done < self.timetable.steps:
        state = self._steps(state, done)
    return state

  def _judge_again(self, done: int) -> None:
    """Whether the run stopped early is asked anew at a resume: the rule may be another one now."""
    position, rule = self._position, self.early_stopping
    position.finished = rule is not None and rule.exhausted(position.early_stopping)
    if rule is not None and position.finished:
      self.progress.event(f"step {done}: stopped early, {rule.explain(position.early_stopping)}")

  def _steps(self, state: TrainState, done: int) -> TrainState:
    batches = self.batches(done, self._position)
    try:
      while done < self.timetable.steps and not self._position.finished:
        state = self._one_step(state, batches, done)
        done += 1
        self.watchdog.beat(done)
        faults.inject(done, jax.process_index())
        self._after(state, done)
    finally:
      batches.close()
      self.profile.stop()
    return state

  def _one_step(self, state: TrainState, batches: Batches, done: int) -> TrainState:
    start = time.perf_counter()
    if self.curriculum.adaptive:
      self._observe(before=done - IN_FLIGHT)
    with self.watchdog.phase("data"):
      index, plan, batch = next(batches)
    ready = time.perf_counter()
    self.profile.at(index)
    if (plan.batch, plan.length) not in self._shapes:
      return self._first_of_shape(state, index, plan, batch)
    self._clock.data += ready - start
    state, metrics = self.step(state, batch, knobs_of(plan))
    self._flying.append((index + 1, plan, metrics))
    batches.prepare()
    self._clock.dispatch += time.perf_counter() - ready
    self._clock.steps += 1
    self._clock.tokens += plan.batch * plan.length
    while len(self._flying) > IN_FLIGHT:
      self._land()
    return state

  def _first_of_shape(self, state: TrainState, index: int, plan: Plan, batch: Batch) -> TrainState:
    """Compiles for a new shape; that step, and the wait for its batch, stay out of the throughput."""
    start = time.perf_counter()
    with self.watchdog.phase("compile"):
      state, metrics = self.step(state, batch, knobs_of(plan))
      jax.block_until_ready(metrics)
    self._shapes.add((plan.batch, plan.length))
    self._flying.append((index + 1, plan, metrics))
    self.progress.event(f"compiled the step for {plan.batch} x {plan.length} tokens in "
                        f"{time.perf_counter() - start:.1f} s")
    return state

  def _observe(self, before: int) -> None:
    """Lets the curriculum see the metrics of all steps below `before` and of none after: what a plan depends on is
    the same whether an evaluation, a checkpoint, a stop and resume, or nothing came between."""
    while self._flying and self._flying[0][0] <= before:
      self._land()
    position = self._position
    while position.observed and position.observed[0][0] < before:
      step, values = position.observed.pop(0)
      position.curriculum = self.curriculum.observe(position.curriculum, step, values)

  def _land(self) -> None:
    """Reads the oldest step's numbers; waits for the device only if that step is still running."""
    start = time.perf_counter()
    done, plan, vector = self._flying.popleft()
    values = dict(zip(self.names, np.asarray(vector).tolist(), strict=True))
    self._clock.device += time.perf_counter() - start
    position = self._position
    if self.curriculum.adaptive:
      position.observed.append([done - 1, {**values, **plan.knobs}])
    position.tokens += plan.batch * plan.length
    position.sums.add(values)
    self._watch_skips(values, done, plan)
    if self.timetable.due(self.timetable.log, done):
      self._log(done, plan)

  def _log(self, done: int, plan: Plan) -> None:
    position, clock = self._position, self._clock
    row: dict[str, Any] = interval.learned(position.sums.means(), self.bits_per_byte)
    row["train/tokens"] = position.tokens
    row |= interval.planned(plan, shapes=len(self.curriculum.shapes()))
    if clock.steps:
      row |= self.throughput.measure(tokens=clock.tokens, seconds=clock.total,
                                     flops_per_token=self.flops_per_token(plan.length))
      row |= clock.split()
    row["time/elapsed"] = time.perf_counter() - self._started
    self.writer.write(done, row)
    self.progress.update(done, row)
    self.checkpoints.check()
    position.sums, self._clock = interval.Sums(), interval.Clock()

  def _watch_skips(self, values: Mapping[str, float], done: int, plan: Plan) -> None:
    in_a_row = int(values["skipped_in_a_row"])  # counted in the state, so that a resume goes on counting
    if in_a_row > 0:
      what = f"loss {values['loss']:.4g}, gradient norm {values['gradient_norm']:.4g}"
      self.progress.event(f"step {done}: update skipped ({what})")
      self._skipped.append(f"{self.describe_batch(done - 1, plan)}: {what}")
    else:
      self._skipped = []
    if in_a_row >= self.max_skips:
      self._diverged = [f"{in_a_row} updates in a row were skipped", *self._skipped[-6:]]

  def _after(self, state: TrainState, done: int) -> None:
    table = self.timetable
    side = [name for name, every in (("evaluate", table.evaluate), ("sample", table.sample)) if table.due(every, done)]
    if (stop := self._stop(done)) is not None:
      self._position.pending = side
      self._save(state, done, {})
      raise stop
    measured = self._side_work(state, done, side)
    if self._keeps(done):
      self._save(state, done, measured)

  def _stop(self, done: int) -> LlmJaxError | None:
    """Why the run ends here with side work left to do; None if it goes on."""
    if self.preemption.should_stop(done):
      reason = self.preemption.reason or "preemption"
      return RestartError(f"stopped by {reason} after step {done}; checkpoint written, the same command resumes")
    if self._diverged:
      what, *batches = self._diverged
      return DivergedError("\n  ".join([f"{what}; checkpoint {done} holds the last good weights", *batches]))
    return None

  def _keeps(self, done: int) -> bool:
    """Is a checkpoint due after `done` updates, whether or not a signal comes?"""
    return self._position.finished or self.timetable.due(self.timetable.save, done) or done == self.timetable.steps

  def _side_work(self, state: TrainState, done: int, names: list[str]) -> dict[str, float]:
    measured: dict[str, float] = {}
    if names:
      self._drain()
    if "evaluate" in names:
      start = time.perf_counter()
      with self.watchdog.phase("eval"):
        measured = self.evaluate(state)
      self.writer.write(done, {**measured, "time/eval": time.perf_counter() - start})
      shown = "  ".join(f"{name} {value:.4f}" for name, value in measured.items() if name.count("/") == 1)
      self.progress.event(f"step {done}: {shown}")
      if self.early_stopping is not None:
        self._position.early_stopping = self.early_stopping.update(self._position.early_stopping, done, measured)
        self._position.finished = self.early_stopping.exhausted(self._position.early_stopping)
        if self._position.finished:
          why = self.early_stopping.explain(self._position.early_stopping)
          self.progress.event(f"step {done}: stopping early, {why}")
    if "sample" in names:
      with self.watchdog.phase("sample"):
        for prompt, text in self.sample(state):
          self.writer.write_sample(done, prompt, text)
    return measured

  def _save(self, state: TrainState, done: int, measured: Mapping[str, float]) -> None:
    self._drain()
    self.writer.sync()
    start = time.perf_counter()
    with self.watchdog.phase("save"):
      extra = {**self.extra, "position": dataclasses.asdict(self._position)}
      saved = self.checkpoints.save(done, state, extra, measured)
    if saved:
      self.progress.event(f"step {done}: checkpoint ({time.perf_counter() - start:.2f} s)")

  def _drain(self) -> None:
    while self._flying:
      self._land()
