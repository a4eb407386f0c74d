"""A run that was killed, stopped or damaged ends with the bits of the run that was not.

Compared are all arrays of the last checkpoint (parameters, optimizer, average, guard, key), the rows of the metrics
without what the clock decides, and the samples. Bits are promised for the same number of devices, so every run is a
process of its own with one device.
"""

import hashlib
import pathlib
import random
import shutil
import signal
import time

import door
import pytest

from llm_jax.training.good_steps import newest_good
from llm_jax.training.run_lock import RunLock

STEPS = 40


@pytest.fixture
def copy(unbroken, tmp_path):
  return pathlib.Path(shutil.copytree(unbroken, tmp_path / "run"))


def files(workdir: pathlib.Path) -> dict[str, str]:
  """{path: hash} of everything in a workdir but its lock."""
  return {str(p.relative_to(workdir)): hashlib.sha256(p.read_bytes()).hexdigest()
          for p in sorted(workdir.rglob("*")) if p.is_file() and p.name != "run.lock"}


def same_end(workdir: pathlib.Path, unbroken: pathlib.Path) -> None:
  """Finishes the run; it must end as the unbroken one did."""
  outcome = door.spawn(*door.tiny(workdir))
  assert outcome.code == 0, outcome.err
  assert not door.differences(workdir, unbroken)
  assert not door.logged_twice(workdir)


def killed_after(workdir: pathlib.Path, seconds: float) -> int:
  """Starts the run, waits until it trains and `seconds` more, kills it -> its exit code."""
  process = door.start(*door.tiny(workdir))
  assert process.stderr is not None
  for line in process.stderr:
    if "compiled the step" in line:
      break
  time.sleep(seconds)
  process.send_signal(signal.SIGKILL)
  return door.finish(process).code


def damage(step: pathlib.Path) -> None:
  """Flips one bit in the largest file of a checkpoint."""
  largest = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 1
  largest.write_bytes(bytes(content))


def evaluations(workdir: pathlib.Path, step: int) -> list[dict]:
  return [r for r in door.rows(workdir) if r["step"] == step and "eval/loss" in r]


def test_kill_stop_and_a_torn_line_change_no_bit(unbroken, tmp_path):
  """One run that meets everything: -9 between steps, a torn line, SIGTERM where an evaluation is due. -9 at any instant
  is below, among the faults."""
  workdir = tmp_path / "run"
  assert door.spawn(*door.tiny(workdir), LLM_JAX_FAULT="kill:0:7").code == -signal.SIGKILL
  with open(workdir / "metrics.jsonl", "ab") as file:
    file.write(b'{"step": 8, "train/lo')
  stopped = door.spawn(*door.tiny(workdir), LLM_JAX_FAULT="sigterm:0:18")
  assert stopped.code == 75, stopped.err
  assert "stopped by SIGTERM after step 18" in stopped.err  # from checkpoint 4, or afresh if its seal came too late
  assert newest_good(workdir / "checkpoints", set_aside=False) == 18
  assert not evaluations(workdir, 18), "evaluated within the grace period"
  same_end(workdir, unbroken)
  assert len(evaluations(workdir, 18)) == 1


def test_damage_to_the_newest_checkpoint_changes_no_bit(copy, unbroken):
  damage(copy / "checkpoints" / str(STEPS))
  outcome = door.spawn(*door.tiny(copy))
  assert outcome.code == 0, outcome.err
  assert f"checkpoint {STEPS} is damaged" in outcome.err and "resuming from checkpoint 36" in outcome.err
  assert not door.differences(copy, unbroken)


def test_all_damaged_is_never_a_fresh_start(copy):
  for step in (copy / "checkpoints").iterdir():
    damage(step)
  before = files(copy)
  outcome = door.call(*door.tiny(copy))
  assert outcome.code == 4 and len(outcome.err.splitlines()) <= 10, outcome
  after = files(copy)
  assert sorted(after.values()) == sorted(before.values()), "something was overwritten"
  assert {n: h for n, h in after.items() if "/" not in n} == {n: h for n, h in before.items() if "/" not in n}


@pytest.mark.parametrize("change, key", [
    ("--config.model.depth=1", "model.depth"),
    ("--config.model.width=32", "model.width"),
    ("--config.optimizer.b2=0.9", "optimizer.b2"),
    ("--config.optimizer.peak=1e-3", "optimizer.peak"),
    ("--config.data.tokenizer.name=bytes", "data.tokenizer.name"),
    ("--config.data.packing=pad", "fingerprint"),
])
def test_another_run_is_refused_by_key(copy, change, key):
  before = files(copy)
  outcome = door.call(*door.tiny(copy), change)
  assert outcome.code == 4 and len(outcome.err.splitlines()) <= 10, outcome
  assert key in outcome.err and "--init_from" in outcome.err
  assert files(copy) == before


def test_a_second_run_is_refused(copy):
  before = files(copy)
  with RunLock(copy):
    outcome = door.call(*door.tiny(copy))
  assert outcome.code == 2 and "--workdir" in outcome.err and "in use by another run" in outcome.err, outcome
  assert files(copy) == before


def test_a_longer_run_goes_on(copy, unbroken):
  """More steps are allowed, told, and leave what was there as it was."""
  outcome = door.spawn(*door.tiny(copy), "--config.train.steps=44")
  assert outcome.code == 0, outcome.err
  assert f"train.steps: {STEPS} when saved, 44 now" in outcome.err
  assert newest_good(copy / "checkpoints", set_aside=False) == 44
  kept = [r for r in door.rows(copy) if r["step"] <= STEPS]
  assert [repr(r) for r in kept] == [repr(r) for r in door.rows(unbroken)]


def test_fewer_steps_than_are_done_are_refused(copy):
  before = files(copy)
  outcome = door.call(*door.tiny(copy), "--config.train.steps=39", "--config.ema.decay=0.9")
  assert outcome.code == 2 and len(outcome.err.splitlines()) <= 10, outcome
  assert f"config.train.steps: got 39, but the run in {copy} has done {STEPS} steps" in outcome.err
  assert files(copy) == before


@pytest.mark.parametrize("content", ['{"sta', "[1]", None])
@pytest.mark.parametrize("name", ["status.json", "metrics.jsonl"])
def test_a_damaged_file_is_told_and_nothing_changes(copy, name, content):
  """None: a folder in its place."""
  (copy / name).unlink()
  if content is None:
    (copy / name).mkdir()
  else:
    (copy / name).write_text(content if name == "status.json" else content + '\n{"step": 1}\n')
  before = files(copy)
  outcome = door.call(*door.tiny(copy), "--config.log.every=5")
  assert outcome.code == 3 and name in outcome.err and len(outcome.err.splitlines()) <= 10, outcome
  assert files(copy) == before


@pytest.mark.faults
def test_twenty_kills_at_random_instants(unbroken, tmp_path):
  """Up to two seconds after the step was compiled, or in the middle of starting and compiling."""
  workdir, dice = tmp_path / "run", random.Random(0)
  kills = 0
  while kills < 20:
    if kills % 5 == 4:  # before the first step
      process = door.start(*door.tiny(workdir))
      time.sleep(dice.uniform(0.5, 6.0))
      process.kill()
      code = door.finish(process).code
    else:
      code = killed_after(workdir, dice.uniform(0.0, 2.0) if kills % 2 else dice.uniform(0.0, 0.3))
    kills += 1
    if code == 0:  # it was done before it could be killed: from the start again
      shutil.rmtree(workdir)
  same_end(workdir, unbroken)


@pytest.mark.faults
@pytest.mark.parametrize("step", [1, 3, 4, 6, 10, 12, 24, 30, 39, STEPS])
def test_stopped_at_any_step(step, unbroken, tmp_path):
  """SIGTERM: where nothing, a checkpoint, an evaluation, samples, several of them, or the end is due."""
  workdir = tmp_path / "run"
  stopped = door.spawn(*door.tiny(workdir), LLM_JAX_FAULT=f"sigterm:0:{step}")
  assert stopped.code == 75, stopped.err
  assert newest_good(workdir / "checkpoints", set_aside=False) == step
  same_end(workdir, unbroken)


@pytest.mark.faults
def test_killed_right_after_a_resume_that_owes_an_evaluation(unbroken, tmp_path):
  workdir = tmp_path / "run"
  assert door.spawn(*door.tiny(workdir), LLM_JAX_FAULT="sigterm:0:30").code == 75
  assert door.spawn(*door.tiny(workdir), LLM_JAX_FAULT="kill:0:31").code == -signal.SIGKILL
  same_end(workdir, unbroken)


@pytest.mark.faults
def test_a_second_signal_quits_at_once(tmp_path):
  process = door.start(*door.tiny(tmp_path / "run"), LLM_JAX_FAULT="slow:0:1-40")
  assert process.stderr is not None
  for line in process.stderr:
    if "compiled the step" in line:
      break
  process.send_signal(signal.SIGTERM)
  time.sleep(0.2)
  start = time.monotonic()
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=10) == 128 + signal.SIGTERM
  assert time.monotonic() - start < 1.5
  door.finish(process)


@pytest.mark.faults
def test_a_program_cache_torn_by_a_kill_is_harmless(unbroken, tmp_path):
  """Every entry of the compile cache cut in half: the run compiles anew and ends the same."""
  cache = tmp_path / "cache"
  changes = {"LLM_JAX_CACHE": str(cache), "JAX_COMPILATION_CACHE_DIR": str(cache / "compiled")}
  assert door.spawn(*door.tiny(tmp_path / "first"), **changes).code == 0
  for entry in (cache / "compiled").iterdir():
    entry.write_bytes(entry.read_bytes()[: entry.stat().st_size // 2])
  outcome = door.spawn(*door.tiny(tmp_path / "second"), **changes)
  assert outcome.code == 0, outcome.err
  assert not door.differences(tmp_path / "second", unbroken)


@pytest.mark.faults
def test_the_default_report_survives_a_stop(tmp_path):
  """With the report on, status and report of a stopped run say why it stopped."""
  workdir = tmp_path / "run"
  stopped = door.spawn(*door.tiny(workdir), "--config.log.report=True", LLM_JAX_FAULT="sigterm:0:5")
  assert stopped.code == 75
  assert (workdir / "report.html").is_file() and '"stopped"' in (workdir / "status.json").read_text()
