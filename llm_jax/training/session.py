"""A run in its workdir: lock, resume, loop, report. What is here beside the loop is the promise that the same command
starts a run, resumes it exactly, or says why it cannot.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax

from llm_jax.core import cache
from llm_jax.core.errors import CheckpointError, ConfigError, LlmJaxError
from llm_jax.core.types import TrainState
from llm_jax.training import compile_cache, early_stopping, machine, metrics, planned, profiler, run_directory, settings
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.loop import Loop, Position, Timetable
from llm_jax.training.preemption import Preemption
from llm_jax.training.progress import Progress
from llm_jax.training.run_lock import RunLock
from llm_jax.training.same_run import check_same_run
from llm_jax.training.throughput import Throughput
from llm_jax.training.watchdog import Watchdog
from llm_jax.training.workdir import check_workdir, saved_status

Sampler = Callable[[TrainState], list[tuple[str, str]]]
REPORT_SHARE = 0.02  # of the time goes into writing the report anew while the run goes on


@dataclasses.dataclass
class Session:
  """Trains `run` (llm_jax/experiment.py) in `workdir`.

  sample: state -> [(prompt, text)] for the report. flops_per_token: of a length. init_from: makes the first state
  instead of `run.init_state` when the workdir has no checkpoint. profile: steps to trace, 'FIRST:LAST'.
  """

  run: Any
  workdir: pathlib.Path
  sample: Sampler
  flops_per_token: Callable[[int], float]
  init_from: Callable[[], TrainState] | None = None
  profile: str = ""
  watchdog_seconds: float = 120.0
  _began: bool = False  # from here on the workdir is ours: a start that is refused leaves it as it was
  _step: int = 0  # of status.json
  _next_report: float = 0.0  # time.monotonic() before which no evaluation writes the report anew

  def train(self) -> dict[str, float]:
    """Trains to the end and writes the report -> the last evaluation's numbers.

    Raises:
      LlmJaxError: see Loop.run, RunLock, Checkpoints; status.json and the report then say why. Of a start that is
        refused they say nothing: the workdir stays as it was.
    """
    check_workdir(self.workdir)
    programs = compile_cache.enable(cache.folder("compiled"))
    window = profiler.parse(self.profile, self.workdir / "profile")
    with RunLock(self.workdir) as lock:
      try:
        return self._train(window, programs)
      except LlmJaxError as e:
        self._status("stopped", str(e).splitlines()[0])
        raise
      except BaseException as e:
        self._status("failed", f"{type(e).__name__}: {e}")
        raise
      finally:
        self._report()
        if not self._began:
          lock.withdraw()

  def _train(self, window: profiler.Window, programs: compile_cache.Count) -> dict[str, float]:
    run, config = self.run, self.run.config
    self._step = saved_status(self.workdir).get("step", 0)
    saving, logging = settings.checkpoint(**config["checkpoint"]), settings.log(**config["log"])
    primary = jax.process_index() == 0
    with Checkpoints(self.workdir / "checkpoints", keep=saving.keep, keep_best=saving.best,
                     asynchronous=saving.asynchronous, verify=saving.verify, on_save_error=saving.on_error) as saved, \
        metrics.MetricsWriter(self.workdir, tensorboard=logging.tensorboard, wandb=logging.wandb,
                              primary=primary) as writer:
      state, position, notes = self._start(saved)
      done = int(state.step)
      with Progress(run.train.steps, done, enabled=primary) as progress:
        for note in notes:
          progress.event(note)
        writer.truncate_after(done, again=position.pending)
        self._began = True
        self._describe()
        self._status("running", "")
        loop = self._loop(saved, writer, progress, window)
        state = loop.run(state, position)
        self._result(position)
        self._status("finished", "stopped early" if position.finished else "", int(state.step))
        progress.event(f"compiled programs: {programs}")
      saved.wait()
    return last_evaluation(self.workdir)

  def _start(self, saved: Checkpoints) -> tuple[TrainState, Position, list[str]]:
    """The newest good checkpoint's state, or a fresh one if this workdir has never had a checkpoint.

    Raises:
      CheckpointError: the checkpoints are damaged, of another run, or of none. ConfigError: the run ends before them.
    """
    step = saved.latest_good()
    if step is None:
      state = self.run.init_state() if self.init_from is None else self.init_from()
      return state, Position(self.run.curriculum.init()), []
    extra = saved.extra(step)
    if "config" not in extra:
      raise CheckpointError(f"{saved.directory} holds weights alone, which no run can go on from\n"
                            "  to start from them: --init_from=THIS_WORKDIR with a new --workdir")
    notes = check_same_run(extra["config"], self.run.identity())  # before the arrays: it names keys of the config
    if step > self.run.train.steps:
      raise ConfigError("config.train.steps", f"got {self.run.train.steps}, but the run in {self.workdir} has done "
                        f"{step} steps", accepted=f"a number from {step}, or a new --workdir")
    state, _ = saved.restore(step, self.run.abstract_state)
    position = Position.from_json(extra["position"])
    position.early_stopping = early_stopping.carried(position.early_stopping, extra["config"].get("early_stopping"),
                                                     self.run.config["early_stopping"])
    return state, position, [f"resuming from checkpoint {step}", *(f"changed: {n}" for n in notes)]

  def _loop(self, saved: Checkpoints, writer: metrics.MetricsWriter, progress: Progress,
            window: profiler.Window) -> Loop:
    run, config = self.run, self.run.config
    stopping = config["early_stopping"]
    devices = jax.devices()
    return Loop(
        timetable=Timetable(run.train.steps, config["log"]["every"], config["evaluation"]["every"],
                            config["sample"]["every"], config["checkpoint"]["every"]),
        step=run.compiled_step, names=run.metric_names, curriculum=run.curriculum, batches=run.batches,
        evaluate=self._evaluate, sample=self.sample, checkpoints=saved, writer=writer, progress=progress,
        throughput=Throughput(devices[0].device_kind, len(devices)), flops_per_token=self.flops_per_token,
        bits_per_byte=run.bits_per_byte(), max_skips=run.guard.max_skips,
        early_stopping=None if stopping is None else early_stopping.build(**stopping),
        extra={"config": run.identity()}, profile=window, watchdog=Watchdog(min_seconds=self.watchdog_seconds),
        preemption=Preemption(), describe_batch=self._describe_batch)

  def _evaluate(self, state: TrainState) -> dict[str, float]:
    found = self.run.evaluate(state.params, state.frozen)
    if state.ema:
      found |= self.run.evaluate(state.ema, state.frozen, room="eval_ema")
    if time.monotonic() >= self._next_report:
      self._report()
    return found

  def _result(self, position: Position) -> None:
    """What the curriculum has found out (the mixture that DoReMi recommends), as DIR/curriculum.json."""
    state = position.curriculum
    for step, values in position.observed:
      state = self.run.curriculum.observe(state, step, values)
    found = self.run.curriculum.result(state)
    if found is not None and jax.process_index() == 0:
      run_directory.write_document(self.workdir, "curriculum.json", found)

  def _describe_batch(self, step: int, plan: Any) -> str:
    examples = getattr(self.run.corpus.train, "examples", None)
    if examples is None:
      return f"step {step}"
    domain, window, _ = examples(step, plan)
    shown = ", ".join(f"{d}:{w}" for d, w in zip(domain[:8].tolist(), window[:8].tolist()))
    return f"step {step}, windows {shown}{', ...' if len(window) > 8 else ''}"

  def _describe(self) -> None:
    """The documents beside the metrics, once at each start."""
    if jax.process_index() != 0:
      return
    run, write = self.run, functools.partial(run_directory.write_document, self.workdir)
    tokenizer = run.corpus.tokenizer
    if tokenizer is not None:
      tokenizer.save(self.workdir / "tokenizer")
    write(run_directory.CONFIG, run.config)
    write(run_directory.MACHINE, machine.describe())
    write(run_directory.DATA, {"fingerprint": run.corpus.fingerprint, "tokenizer": getattr(tokenizer, "kind", "none"),
                               "vocab_size": run.corpus.vocab_size, "what": run.corpus.description.splitlines()})
    write(run_directory.PARAMETERS, parameter_table(run))
    write(run_directory.SCHEDULES, schedules(run))

  def _status(self, state: str, reason: str, step: int | None = None) -> None:
    if jax.process_index() == 0 and self._began:
      self._step = self._step if step is None else step
      run_directory.write_document(self.workdir, run_directory.STATUS, {
          "state": state, "step": self._step, "total_steps": self.run.train.steps, "reason": reason})

  def _report(self) -> None:
    if jax.process_index() != 0 or not self._began or not self.run.config["log"]["report"]:
      return
    from llm_jax.training import report  # loads matplotlib

    start = time.monotonic()
    report.write(self.workdir)
    took = time.monotonic() - start
    self._next_report = start + took / REPORT_SHARE


def parameter_table(run: Any) -> list[dict[str, Any]]:
  """One row per array: name, shape, dtype, count, logical axes, layout, trained or frozen."""
  rows = []
  for name, shape in run.model.shapes.items():
    trained = name in run.optimizer.trainable
    place = (run.state_shardings.params if trained else run.state_shardings.frozen)[name]
    rows.append({"name": name, "shape": list(shape.shape), "dtype": str(shape.dtype), "count": shape.size,
                 "axes": [a or "" for a in run.model.logical_axes[name]], "layout": str(place.spec),
                 "trained": trained})
  return rows


def schedules(run: Any) -> dict[str, Any]:
  """The planned series of the run, for plots."""
  return planned.planned(run.train.steps, run.optimizer.schedule, run.curriculum)


def last_evaluation(workdir: pathlib.Path) -> dict[str, float]:
  """The numbers of the last evaluation in metrics.jsonl; {} if there was none."""
  rows = [r for r in metrics.rows(workdir) if "eval/loss" in r]
  return {} if not rows else {k: v for k, v in rows[-1].items() if isinstance(v, float | int)}
