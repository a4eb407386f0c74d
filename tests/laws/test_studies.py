"""Every run of every study resolves before anyone waits for it, and runs have names of their own."""

import pathlib

import pytest

from experiments.run import items, study
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
