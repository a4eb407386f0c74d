"""kill -9 under what schedules data and losses: stages of length, a bandit over domains, learned inner rates with paced
shots. The run ends with the bits of the run that nobody killed, at a stage's border too.
"""

import pathlib
import signal

import door
import pytest

TEXT = pathlib.Path(__file__).resolve().parents[2] / "llm_jax/data/fallback/king_james_bible.txt"
BASE = dict(log=dict(every=1, tensorboard=False, report=False), evaluation=dict(every=5, batches=2, batch_size=16),
            checkpoint=dict(every=3, keep=None), optimizer=dict(name="adam", peak=1e-2, decay="constant"))
RUNS = {
    "stages": dict(
        model=dict(name="gpt", variant="debug", width=16, depth=1, heads=2),
        data=dict(name="text_folder", path=str(TEXT), tokenizer=dict(name="bytes")),
        curriculum=[dict(name="sequence_length", start=8, until=8), dict(name="competence", scorer="rarity", until=10)],
        train=dict(steps=12, batch_size=8, length=16)),
    "bandit": dict(
        model=dict(name="mlp", inputs=12, hidden=(16,), init="uniform"), objective=dict(name="margin"),
        data=dict(name="parity", dimensions=12, k=2, eval_rows=64), curriculum=dict(name="odm", draws=4),
        train=dict(steps=12, batch_size=16, length=1)),
    "inner loop": dict(
        model=dict(name="mlp", hidden=(8, 8)), objective=dict(name="regression"),
        data=dict(name="sinusoids", support=4, query=6, eval_tasks=16),
        meta_learning=dict(name="meta_sgd", inner_steps=2),
        curriculum=dict(name="knobs", until=8, knobs={"k_shot": dict(start=1, end=4, whole=True)}),
        train=dict(steps=12, batch_size=8, length=1))}


@pytest.mark.faults
@pytest.mark.parametrize("name", RUNS)
def test_killed_again_and_again_it_ends_the_same(name, tmp_path):
  config = tmp_path / "config.py"
  lines = [f"  c.{key} = {value!r}" for key, value in (BASE | RUNS[name]).items()]
  config.write_text("\n".join(["from ml_collections import ConfigDict", "", "", "def get_config(arg=''):",
                               "  c = ConfigDict()", *lines, "  return c", ""]))
  whole = door.spawn(f"--config={config}", f"--workdir={tmp_path / 'whole'}")
  assert whole.code == 0, whole.err
  for step in (4, 7, 8, 9):  # rows get longer at update 8, and save is every third
    outcome = door.spawn(f"--config={config}", f"--workdir={tmp_path / 'torn'}", LLM_JAX_FAULT=f"kill:0:{step}")
    assert outcome.code == -signal.SIGKILL, outcome.err
  outcome = door.spawn(f"--config={config}", f"--workdir={tmp_path / 'torn'}")
  assert outcome.code == 0, outcome.err
  assert not door.differences(tmp_path / "torn", tmp_path / "whole")
  assert not door.logged_twice(tmp_path / "torn")
