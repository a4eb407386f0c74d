"""kill -9 at any instant of saving, sealing and deleting: the run resumes from its last good step, to the same bits."""

import json
import os
import pathlib
import random
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from killed_saver import start, update

from llm_jax.training.checkpoint import Checkpoints

SAVER = pathlib.Path(__file__).with_name("killed_saver.py")
ROOT = SAVER.parents[2]


def run(directory, steps, points):
  """Runs the saver through the kill points; returns what a reader found after each."""
  command = [sys.executable, str(SAVER), str(directory), str(steps), *map(str, points)]
  environment = {**os.environ, "PYTHONPATH": str(ROOT)}
  done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=580)
  assert done.returncode == 0, done.stderr
  return [json.loads(line) for line in done.stdout.splitlines()]


def check(directory, steps, found):
  good = 0
  for row in found:
    assert row["status"] in (-9, 0), row
    assert (row["good"] or 0) >= good, f"went back after {row}"
    good = row["good"] or 0
    assert len(row["names"]) <= 6, row
  assert found[-1]["point"] == "end" and found[-1]["status"] == 0
  assert found[-1]["names"] == [str(steps - 1), str(steps)]
  expected = start()
  for _ in range(steps):
    expected = update(expected)
  state, extra = Checkpoints(directory).restore(steps, start())
  assert extra == {"step": steps}
  assert np.asarray(state["w"]).tobytes() == np.asarray(expected["w"]).tobytes()
  assert jnp.array_equal(state["key"], expected["key"])


def test_killed_while_saving_resumes_to_the_same_bits(tmp_path):
  found = run(tmp_path / "c", 24, [2, 20, "t0.2", 41, 62, "t0.25", 90, "end"])
  assert sum(row["status"] == -9 for row in found) >= 5
  check(tmp_path / "c", 24, found)


@pytest.mark.faults
def test_killed_before_every_change_to_the_directory(tmp_path):
  """Each child dies one file-system operation later than the one before it: no operation is left out."""
  points = list(range(1, 81))
  found = run(tmp_path / "c", 80, [*points, "end"])
  assert sum(row["status"] == -9 for row in found) == len(points)
  check(tmp_path / "c", 80, found)


@pytest.mark.faults
def test_killed_at_random_instants(tmp_path):
  times = [f"t{random.Random(i).uniform(0.1, 1.2):.3f}" for i in range(30)]
  check(tmp_path / "c", 60, run(tmp_path / "c", 60, [*times, "end"]))
