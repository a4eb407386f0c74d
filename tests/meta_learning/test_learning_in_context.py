"""A model that is trained on prompts learns from the examples in the row: labels are drawn anew for every task, so that
nothing in its weights can say which class is which. Through the doors, as a user would.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def door(name, *arguments):
  environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  done = subprocess.run([sys.executable, "-m", f"llm_jax.{name}", *arguments], env=environment, cwd=ROOT,
                        capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("channel", [False, True], ids=["direct", "channel"])
def test_examples_in_the_row_are_what_the_answer_comes_from(tmp_path, monkeypatch, channel):
  monkeypatch.setenv("LLM_JAX_CACHE", str(tmp_path / "cache"))
  random = np.random.default_rng(0)
  for letter in "abcdefgh":
    folder = tmp_path / "texts" / letter
    folder.mkdir(parents=True)
    for i in range(40):
      (folder / f"{i:02d}.txt").write_text(letter * int(random.integers(2, 5)) + "xyz"[random.integers(3)])
  config = dict(
      model=dict(name="gpt", variant="debug", width=64, depth=2, heads=2),
      data=dict(name="labelled_episodes", form="in_context", channel=channel, labels="arbitrary", ways=2, shots=2,
                query=2, held_out=0, between="", after="", eval_tasks=64,
                text=dict(name="text_folder", path=str(tmp_path / "texts"), tokenizer=dict(name="bytes"),
                          split="documents", validation_fraction=0.2)),
      optimizer=dict(name="adam", peak=2e-3, warmup=50, decay="constant"),
      train=dict(steps=1200, batch_size=64, length=40), evaluation=dict(every=300, batch_size=64),
      checkpoint=dict(every=600), log=dict(every=300, tensorboard=False, report=False))
  lines = ["from ml_collections import ConfigDict", "", "", "def get_config(arg=''):", "  c = ConfigDict()",
           *(f"  c.{key} = {value!r}" for key, value in config.items()), "  return c", ""]
  (tmp_path / "config.py").write_text("\n".join(lines))
  door("train", f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}")
  shown = door("evaluate", f"--workdir={tmp_path / 'run'}", "--seeds=2", f"--out={tmp_path / 'found.json'}")
  found = json.loads((tmp_path / "found.json").read_text())["few_shot"]
  assert "accuracy/in_context/2_shots" in shown and not any("gradient" in name for name in found)  # no rate to adapt by
  accuracy = {shots: found[f"accuracy/in_context/{shots}"]["mean"] for shots in ("0_shots", "2_shots")}
  assert accuracy["2_shots"] > 0.85 and abs(accuracy["0_shots"] - 0.5) < 0.15, accuracy
