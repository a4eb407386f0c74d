"""The loop over steps that cost nothing: what a stop, a resume, a skipped update and a slow batch do to a run."""

import io
import types

import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.errors import DivergedError, RestartError
from llm_jax.core.types import Curriculum, Plan, TrainState
from llm_jax.optimizers.schedules import schedule
from llm_jax.training import early_stopping, loop, metrics, planned, profiler, seal
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.loop import Loop, Position, Timetable
from llm_jax.training.preemption import Preemption
from llm_jax.training.progress import Progress
from llm_jax.training.throughput import Throughput
from llm_jax.training.watchdog import Watchdog

NAMES = ("loss", "learning_rate", "gradient_norm", "target_tokens", "skipped_updates", "skipped_in_a_row")
RATE = schedule(peak=1.0, total=40, warmup=5)


class Same(Curriculum):
  """Every step has one row of eight tokens."""

  def plan(self, step, state):
    return Plan(1, 8)


class Numbered:
  """Batches that are nothing but their step; `before` is called with it."""

  def __init__(self, start, stop, before):
    self.steps, self.before = iter(range(start, stop)), before

  def __next__(self):
    step = next(self.steps)
    self.before(step)
    return step, Plan(1, 8), {}

  def prepare(self): ...

  def close(self): ...


class Run:
  """A run of `steps` in `workdir`; bad: updates, from 0, that the guard skips; loss: of the evaluation after a step."""

  def __init__(self, workdir, steps=40, bad=(), loss=lambda step: 1.0, stopping=None, best="max", keep=1,
               every=10, max_skips=10, before=lambda step: None):
    self.workdir, self.steps, self.bad, self.loss, self.stopping = workdir, steps, bad, loss, stopping
    self.best, self.keep, self.every, self.max_skips, self.before = best, keep, every, max_skips, before
    self.trained, self.said = [], io.StringIO()

  def step(self, state, batch, knobs):
    done = int(state.step)
    self.trained.append(done + 1)
    bad = done in self.bad
    in_a_row = int(state.guard["in_a_row"]) + 1 if bad else 0
    skipped = int(state.guard["skipped"]) + bad
    row = dict(loss=np.nan if bad else 1 / (1 + done), learning_rate=RATE(done - skipped + bad), gradient_norm=1.0,
               target_tokens=8.0, skipped_updates=skipped, skipped_in_a_row=in_a_row)
    guard = {"in_a_row": jnp.int32(in_a_row), "skipped": jnp.int32(skipped)}
    return state.replace(step=state.step + 1, guard=guard), jnp.asarray([row[n] for n in NAMES], jnp.float32)

  def train(self):
    """Starts or resumes -> whether it stopped early."""
    zero = jnp.int32(0)
    state = TrainState(zero, zero, {}, {}, {}, {}, {"in_a_row": zero, "skipped": zero})
    position = Position({})
    with Checkpoints(self.workdir / "checkpoints", keep=self.keep, keep_best=("eval/loss", self.best)) as checkpoints, \
        metrics.MetricsWriter(self.workdir, tensorboard=False) as writer:
      if (step := checkpoints.latest_good()) is not None:
        state, extra = checkpoints.restore(step, state)
        position = Position.from_json(extra["position"])
        writer.truncate_after(step, again=position.pending)
      Loop(timetable=Timetable(self.steps, 1, self.every, 0, 10), step=self.step, names=NAMES, curriculum=Same(),
           batches=lambda start, _: Numbered(start, self.steps, self.before),
           evaluate=lambda state: {"eval/loss": self.loss(int(state.step))}, sample=lambda state: [],
           checkpoints=checkpoints, writer=writer, progress=Progress(self.steps, stream=self.said),
           throughput=Throughput("cpu", 1), flops_per_token=lambda length: 1.0, bits_per_byte=None,
           max_skips=self.max_skips, early_stopping=self.stopping, extra={}, profile=profiler.Window(),
           watchdog=Watchdog(tick=0.01), preemption=Preemption()).run(state, position)
    return position.finished

  def stopped_at(self, monkeypatch, step):
    """Trains until it is asked to stop after this step."""
    with monkeypatch.context() as patch:
      patch.setattr(Preemption, "should_stop", lambda self, done: done == step)
      with pytest.raises(RestartError):
        self.train()

  @property
  def kept(self):
    return {int(p.name): metrics_of(p) for p in (self.workdir / "checkpoints").iterdir()}


def metrics_of(path):
  assert not seal.verify(path)
  return seal.read_manifest(path)["metrics"]


@pytest.mark.parametrize("stop", [10, 15, 20, 40])
@pytest.mark.parametrize("loss, kept", [(lambda step: 1 / step, [10, 40]), (lambda step: -abs(step - 20), [20, 40])],
                         ids=["falls", "best at 20"])
def test_a_stop_where_an_evaluation_is_due_keeps_the_checkpoints_of_the_run_without(monkeypatch, tmp_path, stop, loss,
                                                                                   kept):
  """Evaluated every 5 steps, so also where no checkpoint is due: those of 5, 15, ... are of no unbroken run."""
  whole, broken = (Run(tmp_path / name, loss=loss, every=5) for name in ("whole", "broken"))
  whole.train()
  broken.stopped_at(monkeypatch, stop)
  assert metrics_of(broken.workdir / "checkpoints" / str(stop)) == {}
  broken.train()
  assert broken.kept == whole.kept and sorted(whole.kept) == kept
  rows = lambda run: [repr(metrics.deterministic(r)) for r in metrics.rows(run.workdir)]
  assert rows(broken) == rows(whole)


def test_a_run_that_stopped_early_is_judged_by_the_rule_of_today(tmp_path):
  rule = lambda patience: early_stopping.build(patience=patience)
  run = Run(tmp_path, loss=lambda step: step, stopping=rule(1))
  assert run.train() and run.trained[-1] == 20
  again = Run(tmp_path, loss=lambda step: step, stopping=rule(1))
  assert again.train() and not again.trained
  assert "step 20: stopped early, eval/loss has not improved since step 10" in again.said.getvalue()
  more = Run(tmp_path, loss=lambda step: step, stopping=rule(2))
  assert more.train() and more.trained == list(range(21, 31))
  without = Run(tmp_path, loss=lambda step: step)
  assert not without.train() and without.trained == list(range(31, 41))


@pytest.mark.parametrize("evaluated_at", [10, 8, 9])
def test_as_many_skips_in_a_row_as_the_guard_allows_stop_the_run(tmp_path, evaluated_at):
  """Also where an evaluation reads the steps that follow the last skipped one, in the same moment."""
  fewer = Run(tmp_path / "fewer", bad=(5, 6), every=evaluated_at, max_skips=3)
  fewer.train()
  assert fewer.trained[-1] == 40
  run = Run(tmp_path / "run", bad=(5, 6, 7), every=evaluated_at, max_skips=3)
  with pytest.raises(DivergedError) as stop:
    run.train()
  first, *batches = str(stop.value).splitlines()
  assert first.startswith("3 updates in a row were skipped; checkpoint ") and len(batches) == 3
  assert 8 <= run.trained[-1] <= 11


def test_the_wait_for_the_batch_of_a_step_that_compiles_is_not_in_its_rate(monkeypatch, tmp_path):
  now = [0.0]
  monkeypatch.setattr(loop, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))

  def wait(step):
    now[0] += 1.0 if step else 1000.0
  Run(tmp_path, steps=4, before=wait).train()
  rows = [r for r in metrics.rows(tmp_path) if "train/tokens_per_second" in r]
  assert rows and {r["train/tokens_per_second"] for r in rows} <= {8.0, 8.0 * 2 / 3, 4.0}, rows
  assert all(r["time/data"] == 1.0 for r in rows)


def test_a_plan_names_its_updates_as_the_rows_do(tmp_path):
  Run(tmp_path, keep=None).train()
  rates = {r["step"]: r["train/learning_rate"] for r in metrics.rows(tmp_path) if "train/learning_rate" in r}
  plan = planned.planned(40, RATE, Same())["learning_rate"]
  assert dict(zip(plan["step"], np.float32(plan["value"]).tolist(), strict=True)) == rates
