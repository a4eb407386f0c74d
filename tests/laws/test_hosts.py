"""Two processes of four devices are one run: the numbers of one process with eight, and no fault of one process hangs
the other, loses an update or hides what went wrong.
"""

import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import door
import numpy as np
import pytest

from llm_jax.training.good_steps import newest_good

pytestmark = pytest.mark.faults
STEPS = 20


def arguments(workdir, *more):
  """A short form of tests/laws/tiny_run.py, with evaluation, samples and an average."""
  return door.tiny(workdir, f"--config.train.steps={STEPS}", "--config.checkpoint.every=3",
                   "--config.evaluation.every=8", "--config.sample.every=8", "--watchdog_seconds=60", *more)


def start(workdir, *more, launcher=("experiments.launch.local",), **changes):
  """Two processes of four devices, under a launcher, running."""
  command = [sys.executable, "-m", *launcher, "--processes=2", "--fake_devices=4", "--", *arguments(workdir, *more)]
  return subprocess.Popen(command, cwd=door.ROOT, env=door.environment(**changes), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace")


def finish(process, timeout=400):
  """-> (exit code, everything that it wrote from here on)."""
  try:
    out, _ = process.communicate(timeout=timeout)
  finally:
    for pid in members(process.pid) if process.poll() is None else []:
      os.kill(pid, signal.SIGKILL)
    process.kill()
  return process.returncode, out


def pair(workdir, *more, **changes):
  """Two processes to the end."""
  return finish(start(workdir, *more, **changes))


def read_until(process, text):
  for line in process.stdout:
    if text in line:
      return
  raise AssertionError(f"ended without {text!r}")


@pytest.fixture(scope="module")
def unbroken_pair(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("pair") / "run"
  code, out = pair(workdir)
  assert code == 0, out[-3000:]
  return workdir


def losses(workdir):
  return {r["step"]: r["train/loss"] for r in door.rows(workdir) if "train/loss" in r}


def test_two_by_four_is_one_by_eight(unbroken_pair, tmp_path):
  """Losses, evaluations and samples; parameters to rounding."""
  outcome = door.spawn(*arguments(tmp_path / "run"), devices=8)
  assert outcome.code == 0, outcome.err
  one, two = losses(tmp_path / "run"), losses(unbroken_pair)
  assert one.keys() == two.keys() and len(one) > 5
  np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=0, atol=1e-6)
  evaluations = [[r["eval/loss"] for r in door.rows(w) if "eval/loss" in r] for w in (tmp_path / "run", unbroken_pair)]
  np.testing.assert_allclose(*evaluations, rtol=0, atol=1e-6)
  arrays, others = door.state(tmp_path / "run"), door.state(unbroken_pair)
  for name, value in arrays.items():
    np.testing.assert_allclose(others[name], value, atol=2e-6, err_msg=name)


def members(launcher):
  """The process ids of the two runs under a launcher or a supervisor, in order of their start."""
  def below(pid):
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    return [int(c) for c in children.read_text().split()] if children.exists() else []
  found, queue = [], [launcher]
  while queue:
    for child in below(queue.pop()):
      line = pathlib.Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
      is_launcher = any(part.startswith(b"experiments.launch") for part in line)
      (queue if is_launcher else found).append(child)
  return sorted(found)


def test_kills_under_the_supervisor_leave_no_trace(unbroken_pair, tmp_path):
  """R2: a random process is killed at random instants; the run goes on by itself and ends with the same bits."""
  dice, workdir = random.Random(0), tmp_path / "run"
  supervised = ("experiments.launch.supervise", f"--workdir={workdir}")
  process = start(workdir, launcher=supervised)
  for _ in range(3):
    read_until(process, "checkpoint")
    time.sleep(dice.uniform(0.0, 1.0))
    if process.poll() is None and (pids := members(process.pid)):
      os.kill(dice.choice(pids), signal.SIGKILL)
  code, out = finish(process, 600)
  assert code == 0, out[-3000:]
  assert not door.differences(workdir, unbroken_pair)
  assert not door.logged_twice(workdir)


def test_an_exception_in_one_reaches_the_screen_last(tmp_path):
  """R7: within seconds, with the traceback of the process that raised."""
  begun = time.monotonic()
  process = start(tmp_path / "run", LLM_JAX_FAULT="exception:1:5")
  read_until(process, "step 3")
  begun = time.monotonic()
  code, out = finish(process)
  assert code == 1 and time.monotonic() - begun < 90
  last = out[out.rindex("ended first"):]
  assert "process 1" in out[out.rindex("process 1 ended"):] and "InjectedFaultError" in last and "Traceback" in last


def test_a_stuck_process_ends_both_and_says_where(unbroken_pair, tmp_path):
  """R6, and the same bits after a new start."""
  code, out = pair(tmp_path / "run", "--watchdog_seconds=6", LLM_JAX_FAULT="stuck:1:7")
  assert code in (75, 134), out[-3000:]
  assert re.search(r"no step for \d+ s \(step \d+, waiting in", out) and "Thread 0x" in out
  code, out = pair(tmp_path / "run")
  assert code == 0, out[-3000:]
  assert not door.differences(tmp_path / "run", unbroken_pair)


def test_a_signal_stops_both_at_one_step_and_other_devices_go_on(unbroken_pair, tmp_path):
  """R5 and R11: SIGTERM gives a checkpoint and 75; one process with eight devices, then with two, ends the run."""
  workdir = tmp_path / "run"
  process = start(workdir)
  read_until(process, "step 6")
  begun = time.monotonic()
  os.kill(members(process.pid)[1], signal.SIGTERM)
  code, out = finish(process)
  assert code == 75 and time.monotonic() - begun < 30 + 30, out[-3000:]
  stopped = newest_good(workdir / "checkpoints", set_aside=False)
  assert 6 <= stopped < STEPS
  shutil.copytree(workdir, tmp_path / "narrow")
  for folder, devices in ((workdir, 8), (tmp_path / "narrow", 2)):
    outcome = door.spawn(*arguments(folder), devices=devices)
    assert outcome.code == 0, outcome.err
    here, there = losses(folder), losses(unbroken_pair)
    assert here.keys() == there.keys()
    np.testing.assert_allclose(list(here.values()), list(there.values()), rtol=0, atol=1e-5)
