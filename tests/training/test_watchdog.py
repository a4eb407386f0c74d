"""A hang ends with stacks, a reason and exit code 75; nothing that is slow by right is taken for one."""

import os
import pathlib
import subprocess
import sys
import time

from llm_jax.training.watchdog import Watchdog

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
HANG = """
import sys, time
from llm_jax.training.watchdog import Watchdog
with Watchdog(min_seconds=0.4, tick=0.05) as watchdog:
  for step in range(42):
    watchdog.beat(step)
  with watchdog.phase("data"):
    time.sleep(60)
"""


def watched(**options):
  messages = []
  return Watchdog(tick=0.01, expired=messages.append, **options), messages


def test_a_hang_exits_with_stacks():
  began = time.monotonic()
  done = subprocess.run([sys.executable, "-c", HANG], capture_output=True, text=True, timeout=30,
                        env=ENVIRONMENT)
  assert done.returncode == 75
  assert "time.sleep" in done.stderr or 'File "<string>"' in done.stderr
  assert "(step 41, waiting in data)" in done.stderr.splitlines()[-1]
  assert time.monotonic() - began < 25


def test_steady_steps_and_slow_phases_are_left_alone():
  watchdog, messages = watched(min_seconds=0.15, phase_seconds={"eval": 30.0})
  with watchdog:
    for step in range(10):
      watchdog.beat(step)
      time.sleep(0.03)
    with watchdog.phase("eval"):
      time.sleep(0.4)
    watchdog.beat(10)
    time.sleep(0.05)
  assert messages == []


def test_the_deadline_follows_the_step_time():
  watchdog, _ = watched(min_seconds=0.1, factor=20)
  for step in range(5):
    watchdog.beat(step)
    time.sleep(0.05)
  assert 20 * 0.05 <= watchdog.deadline < 20 * 0.12


def test_a_slow_phase_is_in_no_step_time():
  watchdog, _ = watched(min_seconds=0.1, factor=20)
  for step in range(3):
    with watchdog.phase("eval"):
      time.sleep(0.1)
    watchdog.beat(step)
  assert watchdog.deadline < 1


def test_a_slow_phase_has_a_limit_too():
  watchdog, messages = watched(min_seconds=0.05, phase_seconds={"save": 0.2})
  with watchdog:
    watchdog.beat(3)
    with watchdog.phase("save"), watchdog.phase("upload"):
      time.sleep(0.1)
      assert messages == []
      time.sleep(0.3)
  assert len(messages) == 1 and "(step 3, waiting in upload)" in messages[0]


def test_before_the_first_step_the_start_has_its_own_limit():
  watchdog, messages = watched(min_seconds=0.05, phase_seconds={"start": 0.3})
  with watchdog:
    time.sleep(0.15)
    assert messages == []
    time.sleep(0.4)
  assert "before the first step, waiting in the step" in messages[0]
