"""Every run of every study resolves before anyone waits for it, and runs have names of their own."""

import json
import pathlib
import types

import pytest

from experiments.measures import last
from experiments.run import Item, collect, items, study
from llm_jax import experiment
from llm_jax.core import config as configs

ROOT = pathlib.Path(__file__).resolve().parents[2]
STUDIES = sorted(p.parent.name for p in (ROOT / "experiments").glob("*/config.py"))


@pytest.mark.parametrize("name", STUDIES)
def test_every_run_of_a_study_resolves(name):
  module = study(name)
  found = items(module)
  assert len({item.name for item in found}) == len(found) > 1
  for item in found:
    config = module.get_config(item.arg)
    config.update_from_flattened_dict(dict(item.overrides))
    assert configs.resolve(configs.plain(config), experiment.SCHEMA)["train"]["steps"] > 0
  assert callable(next(iter(module.MEASURES.values()))) and module.CURVES


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_says_how_it_is_run(name):
  text = (ROOT / "experiments" / name / "README.md").read_text("utf-8")
  assert f"python -m experiments.run {name}" in text


def test_runs_of_another_machine_stay_in_the_results(tmp_path):
  module = types.SimpleNamespace(MEASURES={"loss": last("eval/loss")}, CURVES=["eval/loss"])
  run = lambda seed, loss: {"arm": "a", "overrides": {"train.seed": seed}, "measures": {"loss": loss},
                            "wall_seconds": 1.0, "curves": {"eval/loss": [[1, loss]]}}
  chosen = [Item("a", "", {"train.seed": seed}) for seed in (0, 1, 2)]
  here = tmp_path / chosen[1].name
  here.mkdir()
  (here / "status.json").write_text(json.dumps({"state": "finished"}))
  (here / "metrics.jsonl").write_text(json.dumps({"step": 1, "eval/loss": 5.0}) + "\n")
  found = collect(module, chosen, tmp_path, [run(0, 1.0), run(1, 2.0), run(7, 9.0)])
  assert [(r["overrides"]["train.seed"], r["measures"]["loss"]) for r in found["runs"]] == [(0, 1.0), (1, 5.0)]
  assert found["arms"]["a"]["loss"]["mean"] == 3.0
