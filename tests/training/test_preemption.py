"""The first signal asks, the second quits at once, also while the main thread is inside a long call."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from llm_jax.training.preemption import Preemption

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
LOOP = """
import sys, time, hashlib
from llm_jax.training.preemption import Preemption
with Preemption() as preemption:
  print("ready", flush=True)
  for step in range(10**9):
    if preemption.should_stop(step):
      break
    time.sleep(0.01)
  print("saved after", preemption.reason, flush=True)
  if sys.argv[1] == "busy":  # one call that holds the main thread: no Python handler can run in it
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 10**9)
"""


def wait_for(condition, seconds=5.0):
  end = time.monotonic() + seconds
  while not condition() and time.monotonic() < end:
    time.sleep(0.005)
  return condition()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop(number, capfd):
  before = signal.getsignal(number)
  with Preemption() as preemption:
    assert not preemption.should_stop(0)
    os.kill(os.getpid(), number)
    assert wait_for(lambda: preemption.requested)
    assert preemption.should_stop(1) and preemption.reason == signal.Signals(number).name
  assert signal.getsignal(number) is before
  assert "will save a checkpoint" in capfd.readouterr().err


def test_request_and_other_threads():
  """Only the main thread may install handlers; elsewhere a run can still be asked to stop."""
  seen = []

  def body():
    with Preemption() as preemption:
      preemption.request("tests")
      seen.append((preemption.should_stop(0), preemption.reason))

  thread = threading.Thread(target=body)
  thread.start()
  thread.join()
  assert seen == [(True, "tests")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_quits_at_once(number):
  process = subprocess.Popen([sys.executable, "-c", LOOP, "busy"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, env=ENVIRONMENT)
  try:
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.stdout.readline() == f"saved after {signal.Signals(number).name}\n"
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert time.monotonic() - began < 2
    assert process.returncode == 128 + number
    assert "quitting at once" in err and "Traceback" not in err
  finally:
    process.kill()
    process.wait()
