"""A bad update changes nothing but a counter, on every device and without making the host wait; a run that only skips
stops with a checkpoint and says which batches did it."""

import door
import in_process
import jax
import numpy as np
import pytest

from llm_jax.core.errors import DivergedError
from llm_jax.training import metrics
from llm_jax.training.session import Session

EIGHT = dict(devices=8, mesh=dict(data=2, fsdp=2, tensor=2))


def inject(monkeypatch, fault):
  monkeypatch.setenv("LLM_JAX_FAULT", fault)


def test_an_update_of_nan_changes_no_bit(monkeypatch):
  inject(monkeypatch, "nan:0:3")
  run = in_process.build(monkeypatch, **EIGHT)
  state, _ = in_process.steps(run, 3)
  before, guard_before = in_process.bits(state), jax.device_get(state.guard)
  state, (row,) = in_process.steps(run, 1, state)
  assert in_process.bits(state) == before
  assert np.isnan(row["loss"]) and row["skipped_updates"] == 1 and row["skipped_in_a_row"] == 1
  assert int(state.step) == 4
  assert np.array_equal(state.guard["loss"], guard_before["loss"]), "a NaN entered the window"
  rate = row["learning_rate"]
  state, (row,) = in_process.steps(run, 1, state)
  assert in_process.bits(state) != before and row["skipped_updates"] == 1 and row["skipped_in_a_row"] == 0
  assert row["learning_rate"] == rate, "the schedule counts updates, not attempts"
  for array in jax.tree.leaves((state.params, state.opt_state)):
    copies = {}
    for shard in array.addressable_shards:
      copies.setdefault(str(shard.index), set()).add(np.asarray(shard.data).tobytes())
    assert all(len(c) == 1 for c in copies.values()), "devices disagree"


def test_a_spike_is_skipped_once_the_window_is_full(monkeypatch):
  inject(monkeypatch, "spike:0:12-13")
  run = in_process.build(monkeypatch, guard=dict(window=8))
  state, rows = in_process.steps(run, 12)
  assert rows[-1]["skipped_updates"] == 0
  before = in_process.bits(state)
  state, (row,) = in_process.steps(run, 1, state)
  assert row["loss"] > 1e3 and row["skipped_updates"] == 1 and in_process.bits(state) == before
  assert np.max(state.guard["loss"]) < 10, "the spike raised the window"
  young = state.replace(guard=jax.device_put(run.guard.init(), run.state_shardings.guard))
  state, (row,) = in_process.steps(run, 1, young)
  assert row["loss"] > 1e3 and row["skipped_updates"] == 0 and in_process.bits(state) != before


def test_a_run_that_only_skips_stops_and_names_the_batches(monkeypatch, tmp_path):
  monkeypatch.setenv("LLM_JAX_MALLOC", "0")
  inject(monkeypatch, "nan:0:5-39")
  arguments = door.tiny(tmp_path / "run", "--config.guard.max_skips=3", "--config.sample.every=0")
  outcome = door.call(*arguments)
  assert outcome.code == 1 and len(outcome.err.splitlines()) > 3, outcome
  told = outcome.err[outcome.err.index("error:"):]
  assert "updates in a row were skipped" in told and len(told.splitlines()) <= 10
  assert "step 5, windows 0:" in told and "nan" in told
  state = door.state(tmp_path / "run")
  assert all(np.isfinite(a).all() for a in state.values())
  assert state["['guard.consecutive']"] >= 3 and 5 < state["step"] <= 12

  again = door.call(*arguments)  # nothing has changed: it stops at its first update, not after three more
  assert again.code == 1 and int(door.state(tmp_path / "run")["step"]) <= state["step"] + 3, again.err


@pytest.mark.parametrize("diverges", [False, True])
def test_a_range_test_that_diverges_says_what_it_found_before(monkeypatch, tmp_path, diverges):
  """The guard skips from update 30 on, so the rate stands still."""
  monkeypatch.setenv("LLM_JAX_MALLOC", "0")

  def train(session):
    with metrics.MetricsWriter(session.workdir, tensorboard=False) as writer:
      for step in range(1, 41):
        loss = 5 - 0.1 * min(step, 30) if step <= 30 or step % 2 else float("nan")
        writer.write(step, {"train/loss": loss, "train/learning_rate": 10.0 ** (min(step, 30) / 10 - 6),
                            "train/skipped_updates": max(0, step - 30)})
    if diverges:
      raise DivergedError("10 updates in a row were skipped; checkpoint 40 holds the last good weights")
  monkeypatch.setattr(Session, "train", train)
  outcome = door.call(*door.tiny(tmp_path, "--config.optimizer.decay=range_test", "--config.optimizer.warmup=0",
                                 "--config.optimizer.peak=10", "--config.log.every=1"))
  assert outcome.code == 0, outcome.err
  assert "learning-rate range test: --config.optimizer.peak=" in outcome.out and "lowest loss at 0.001)" in outcome.out
  assert ("the loss diverged, 10 updates in a row" in outcome.out) == diverges


def test_no_host_sync_is_added(monkeypatch, tmp_path):
  """The step calls nothing back, and the loop reads numbers only when two later steps have been dispatched."""
  run = in_process.build(monkeypatch, train=dict(steps=12), log=dict(every=100), checkpoint=dict(every=0),
                         evaluation=dict(every=0), early_stopping=None, sample=dict(every=0))
  assert "callback" not in str(jax.make_jaxpr(run.train_step)(run.init_state(), run.batch(0), {}))
  read = watch_reads(run)
  Session(run, tmp_path, lambda state: [], lambda length: 1.0).train()
  lag = [dispatched - step for step, dispatched in read]
  assert [s for s, _ in read] == list(range(12))
  assert lag[:9] == [2] * 9 and lag[9:] == [2, 1, 0]


def watch_reads(run):
  """Makes the metrics of each step tell when they are read -> [(step, newest step dispatched)], filled later."""
  read, dispatched, compiled = [], [], run.compiled_step

  class Vector:
    def __init__(self, value):
      self.value, self.step = value, len(dispatched)
      dispatched.append(self.step)

    def __array__(self, *arguments, **options):
      read.append((self.step, dispatched[-1]))
      return np.asarray(self.value)

  def step(state, batch, knobs):
    state, vector = compiled(state, batch, knobs)
    return state, Vector(vector)
  run.__dict__["compiled_step"] = step
  return read
