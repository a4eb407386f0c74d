"""Every family trains alike on one device and on a mesh of data, FSDP and tensor parallelism, through the door."""

import pathlib
import sys

import jax
import numpy as np
import pytest
from families import FAMILIES, ROOT

from llm_jax.core import config as configs
from llm_jax.core import plugins

sys.path.insert(0, str(ROOT / "tests" / "laws"))
import door

STEPS = 10
# Their first gradients are nearly zero: Adam divides by their size, which makes of their rounding a step.
SMALL_GRADIENTS = ("lstm.py", "char_word_lm.py", "char_cnn.py")
OTHERS = {"mlp", "regression_transformer", "hugging_face"}  # of studies, and whatever a folder holds


def train(workdir: pathlib.Path, config: str, devices: int, monkeypatch) -> np.ndarray:
  """The losses of the first steps and of an evaluation behind them."""
  found = configs.load_file(f"{ROOT}/configs/{config}")["train"]
  ways = dict(data=2, fsdp=2, tensor=2) if devices == 8 else dict(data=1)
  knobs = {"train.steps": STEPS, "optimizer.warmup": 2, "train.batch_size": 8, "train.length": min(found["length"], 32),
           "log.every": 1, "log.tensorboard": False, "log.report": False, "sample.every": 0, "evaluation.every": STEPS,
           "evaluation.batches": 2, "checkpoint.every": STEPS, **{f"mesh.{axis}": n for axis, n in ways.items()}}
  if "char_cnn" in config:
    del knobs["train.length"]  # its layers need what it has
  if config.startswith(SMALL_GRADIENTS):
    knobs["optimizer.eps"] = 1e-3
  first = jax.devices()[:devices]
  with monkeypatch.context() as patch:
    patch.setattr(jax, "devices", lambda *_: first)
    done = door.call(f"--config={ROOT}/configs/{config}", f"--workdir={workdir}",
                     *(f"--config.{knob}={value}" for knob, value in knobs.items()))
  assert done.code == 0, done.err
  rows = door.rows(workdir)
  losses = [row["train/loss"] for row in rows if "train/loss" in row]
  assert len(losses) == STEPS
  return np.array([*losses, *(row["eval/loss"] for row in rows if "eval/loss" in row)])


@pytest.mark.slow
@pytest.mark.parametrize("config", FAMILIES)
def test_a_mesh_of_2x2x2_trains_as_one_device(config, tmp_path, monkeypatch):
  one, eight = (train(tmp_path / str(n), config, n, monkeypatch) for n in (1, 8))
  print(f"\n{config}: losses {one[0]:.4f} to {one[STEPS - 1]:.4f}, apart by {np.abs(eight / one - 1).max():.1e}")
  np.testing.assert_allclose(eight, one, rtol=2e-5 if "char_cnn" in config else 1e-5)  # sums over 1,014 places


def test_the_families_are_all_models_that_read_text():
  there = {configs.load_file(f"{ROOT}/configs/{config}")["model"]["name"] for config in FAMILIES}
  assert there == set(plugins.available("models")) - OTHERS
