"""Two processes write one checkpoint: sealed once both have committed, stopped at one step, read by one process."""

import pathlib
import signal
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.training.checkpoint import Checkpoints
from tests.laws import door

SCRIPT = pathlib.Path(__file__).with_name("two_processes.py")


def launch(directory):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  return [subprocess.Popen([sys.executable, str(SCRIPT), str(i), str(port), str(directory)], text=True,
                           env=door.environment(devices=2), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
          for i in range(2)]


def read_until(process, text):
  for line in process.stdout:
    if line.startswith(text):
      return line.strip()
  raise AssertionError(process.stderr.read()[-3000:])


def values(steps):
  w, key = jnp.zeros((16, 32)), jax.random.key(1)
  update = jax.jit(lambda w, step: w * 0.9 + jax.random.normal(jax.random.fold_in(key, step), w.shape))
  for step in range(steps):
    w = update(w, step)
  return np.asarray(w)


@pytest.mark.faults
@pytest.mark.parametrize("victim, number", [(0, signal.SIGTERM), (1, signal.SIGTERM), (1, signal.SIGINT)])
def test_a_signal_to_one_stops_both_at_one_step(tmp_path, victim, number):
  processes = launch(tmp_path / "c")
  try:
    read_until(processes[0], "step 12")
    processes[victim].send_signal(number)
    last = [read_until(p, "stopped at") for p in processes]
    codes = [p.wait(timeout=60) for p in processes]
    assert last[0] == last[1] and codes == [0, 0]
  finally:
    for p in processes:
      p.kill()
      p.communicate()
  step = int(last[0].split()[-1])
  checkpoints = Checkpoints(tmp_path / "c")
  assert checkpoints.latest_good() == step
  state, extra = checkpoints.restore(step, {"w": jnp.zeros((16, 32)), "key": jax.random.key(0), "step": jnp.int32(0)})
  assert extra == {"step": step} and int(state["step"]) == step
  np.testing.assert_array_equal(np.asarray(state["w"]), values(step))


@pytest.mark.faults
def test_a_killed_pair_resumes_from_a_good_step(tmp_path):
  for round_, victim in enumerate((1, 0)):
    processes = launch(tmp_path / "c")
    try:
      resumed = read_until(processes[0], "resumed from")
      assert (resumed == "resumed from None") == (round_ == 0)
      read_until(processes[0], "step 17" if round_ == 0 else "step 26")
      processes[victim].send_signal(signal.SIGKILL)
      for p in processes:
        p.communicate(timeout=60)  # the survivor aborts by itself
        assert p.returncode != 0
    finally:
      for p in processes:
        p.kill()
        p.wait()
  checkpoints = Checkpoints(tmp_path / "c")
  good = checkpoints.latest_good()
  assert good is not None and good >= 20
  state, _ = checkpoints.restore(good, {"w": jnp.zeros((16, 32)), "key": jax.random.key(0), "step": jnp.int32(0)})
  np.testing.assert_array_equal(np.asarray(state["w"]), values(good))
