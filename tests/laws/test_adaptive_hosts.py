"""Curricula that watch the run, over real processes: every process makes the same plans from the same state, a killed
run ends with the bits of the one that nobody killed, and another number of processes goes on with the same plans.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import door
import numpy as np
import pytest

from experiments.launch import local
from llm_jax.training.good_steps import newest_good

pytestmark = pytest.mark.faults
SCRIPT = pathlib.Path(__file__).with_name("planned_process.py")
STEPS, DEVICES = 14, 8
BASE = dict(log=dict(every=1, tensorboard=False, report=False), evaluation=dict(every=5, batches=1, batch_size=16),
            checkpoint=dict(every=3, keep=None), optimizer=dict(name="adam", peak=1e-2, decay="constant"),
            mesh=dict(data=-1))
PARITY = dict(model=dict(name="mlp", inputs=12, hidden=[16], init="uniform"), objective=dict(name="margin"),
              data=dict(name="parity", dimensions=12, k=2, eval_rows=64),
              train=dict(steps=STEPS, batch_size=16, length=1))


def of_text(folder, **changes):
  return dict(model=dict(name="gpt", variant="debug", width=16, depth=1, heads=2),
              data=dict(name="text_folder", path=str(folder), tokenizer=dict(name="bytes"), validation_fraction=0.1),
              train=dict(steps=STEPS, batch_size=16, length=16), **changes)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
  """(folder of two domains, workdir of a short run over them)."""
  root = tmp_path_factory.mktemp("text")
  for domain, word in (("plain", "the sea and the land "), ("odd", "zephyr xylem quartz ")):
    (root / "texts" / domain).mkdir(parents=True)
    for i in range(12):
      (root / "texts" / domain / f"{i}.txt").write_text(word * (20 + i))
  outcome = start(root, BASE | of_text(root / "texts"), root / "reference", 1)
  ended(outcome)
  return root / "texts", root / "reference"


def configs(text):
  folder, reference = text
  return {name: BASE | PARITY | dict(curriculum=dict(name=name, draws=4) | more) for name, more in (
      ("odm", {}), ("exp3s", dict(rate=0.5)), ("teacher_student", dict(window=3)))} | {
          "doremi": BASE | of_text(folder, curriculum=dict(name="doremi", reference=str(reference))),
          "length and odm": BASE | of_text(folder, curriculum=[
              dict(name="sequence_length", start=8, until=6), dict(name="odm")])}


def start(folder, config, workdir, processes, kill=None):
  """The processes of a run, all killed after update `kill` if it is given."""
  file = folder / "config.json"
  file.write_text(json.dumps(config))
  port, share = local.free_port(), DEVICES // processes
  def one(i):
    said = local.environment(i, processes, port, share) if processes > 1 else {}
    said |= {} if kill is None else {"LLM_JAX_FAULT": f"kill:{i}:{kill}"}
    return subprocess.Popen([sys.executable, str(SCRIPT), str(file), str(workdir)], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env={**door.environment(devices=share), **said}, cwd=door.ROOT)
  return [one(i) for i in range(processes)]


def ended(processes):
  """What each said at its end; all must have ended well."""
  try:
    outs = [p.communicate(timeout=300) for p in processes]
  finally:
    for p in processes:
      if p.poll() is None:
        os.kill(p.pid, signal.SIGKILL)
  assert all(p.returncode == 0 for p in processes), [err[-2000:] for _, err in outs]
  return [json.loads(out.strip().splitlines()[-1]) for out, _ in outs]


def killed(processes):
  for p in processes:
    p.communicate(timeout=300)
  assert {p.returncode for p in processes} <= {-signal.SIGKILL, 134, -signal.SIGABRT}, [p.returncode for p in processes]


def alike(plans, others):
  """The same steps with the same shapes and domains; probabilities to the rounding of sums over other devices."""
  assert [p[:3] for p in plans] == [p[:3] for p in others]
  for mine, theirs in zip(plans, others, strict=True):
    for one, other in zip(mine[3:], theirs[3:], strict=True):
      assert one.keys() == other.keys()
      np.testing.assert_allclose(list(one.values()), list(other.values()), atol=1e-5, err_msg=str(mine[0]))


@pytest.mark.parametrize("name", ["odm", "exp3s", "teacher_student", "length and odm"])
def test_processes_agree_and_a_kill_leaves_no_trace(name, text, tmp_path):
  config = configs(text)[name]
  first, second = ended(start(tmp_path, config, tmp_path / "whole", 2))
  assert first == second and len(first["plans"]) == STEPS and len(first["state"]) == 1
  assert len({json.dumps(p[3:]) for p in first["plans"]}) > 3  # it does adapt
  killed(start(tmp_path, config, tmp_path / "torn", 2, kill=8))
  at = newest_good(tmp_path / "torn" / "checkpoints", set_aside=False)
  assert at in (3, 6)
  for processes in (1, 4):
    shutil.copytree(tmp_path / "torn", tmp_path / f"on{processes}")
  again = ended(start(tmp_path, config, tmp_path / "torn", 2))
  assert again[0] == again[1] and again[0]["plans"] == first["plans"][at:] and again[0]["state"] == first["state"]
  assert not door.differences(tmp_path / "torn", tmp_path / "whole")
  assert not door.logged_twice(tmp_path / "torn")
  for processes in (1, 4):
    others = ended(start(tmp_path, config, tmp_path / f"on{processes}", processes))
    assert all(o == others[0] for o in others)
    alike(others[0]["plans"], first["plans"][at:])


def test_doremi_compares_with_a_model_that_lies_over_both_processes(text, tmp_path):
  """The reference's arrays are frozen ones of the state: a resume has them from the checkpoint, not from its folder."""
  config = configs(text)["doremi"]
  first, second = ended(start(tmp_path, config, tmp_path / "whole", 2))
  assert first == second and len({json.dumps(p[3:]) for p in first["plans"]}) > 3
  killed(start(tmp_path, config, tmp_path / "torn", 2, kill=8))
  at = newest_good(tmp_path / "torn" / "checkpoints", set_aside=False)
  again = ended(start(tmp_path, config, tmp_path / "torn", 2))
  assert again[0] == again[1]
  assert again[0]["plans"] == first["plans"][at:] and again[0]["state"] == first["state"]
  assert not door.differences(tmp_path / "torn", tmp_path / "whole")
  assert not door.logged_twice(tmp_path / "torn")
