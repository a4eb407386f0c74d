"""Every config of the catalogue builds, and resolves to what it resolved to when somebody last looked.

    python -m tests.laws.test_configs     # writes tests/golden/*.json anew: read the diff before committing it
"""

import ast
import json
import os
import pathlib
import re
import shutil
import sysconfig

if __name__ == "__main__":
  os.environ["JAX_PLATFORMS"] = "cpu"

import pytest

from llm_jax import experiment
from llm_jax.core import config as configs
from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.data.samples import sample

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
FILES = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if not p.stem.startswith("_"))
TEXT = str(ROOT / "llm_jax/data/fallback/king_james_bible.txt")
READS_TEXT = ("stdlib", "text_folder", "tfds")


def load(name: str, argument: str) -> dict:
  return configs.load_file(f"{ROOT / 'configs' / name}.py" + (f":{argument}" if argument else ""))


def resolved(name: str) -> dict:
  """{argument: resolved config} of a config file, for no argument and 'debug'."""
  return {argument: configs.resolve(load(name, argument), experiment.SCHEMA) for argument in ("", "debug")}


def text(value: dict) -> str:
  return json.dumps(value, indent=1, sort_keys=True).replace(str(ROOT), "ROOT") + "\n"


@pytest.mark.parametrize("name", FILES)
def test_a_config_resolves_to_its_golden_form(name):
  golden = GOLDEN / f"{name}.json"
  assert golden.is_file(), f"no {golden}; {__doc__}"
  assert text(resolved(name)) == golden.read_text("utf-8"), f"a default or a config has changed; {__doc__}"


def test_no_golden_form_without_a_config():
  assert sorted(p.stem for p in GOLDEN.glob("*.json")) == FILES


@pytest.mark.parametrize("name", FILES)
def test_a_config_says_how_to_run_it_and_what_it_varies(name):
  source = (ROOT / "configs" / f"{name}.py").read_text("utf-8")
  assert f"--config=configs/{name}.py" in source, "its docstring holds no command line"
  assert "\ndef sweep(add" in source, "no sweep"


@pytest.mark.parametrize("name", FILES)
def test_an_argument_that_it_does_not_know_is_refused(name):
  with pytest.raises(ConfigError):
    config = configs.resolve(load(name, "nosuch"), experiment.SCHEMA)
    plugins.bind("models", config["model"], "config.model")(256, config["train"]["length"])


@pytest.mark.parametrize("name", [n for n in FILES if "ARGUMENTS" in (ROOT / "configs" / f"{n}.py").read_text("utf-8")])
def test_the_arguments_of_its_docstring_load_and_one_that_is_nearly_right_is_told(name):
  source = (ROOT / "configs" / f"{name}.py").read_text("utf-8")
  listed = ast.literal_eval(re.search(r"^ARGUMENTS = (\(.*?\))$", source, re.MULTILINE | re.DOTALL).group(1))
  said = re.search(r'"""arg: (.*?)"""', source, re.DOTALL).group(1)
  for argument in listed:
    assert argument in said and configs.resolve(load(name, argument), experiment.SCHEMA)
  with pytest.raises(ConfigError, match=f"did you mean: {listed[-1]}"):
    load(name, listed[-1] + "x")


@pytest.fixture(scope="module")
def small_library(tmp_path_factory):
  """A few packages of Python's library: it takes seconds to read all of it."""
  folder = tmp_path_factory.mktemp("library")
  for package in ("collections", "email", "json", "logging"):
    shutil.copytree(pathlib.Path(sysconfig.get_path("stdlib")) / package, folder / package)
  shutil.copy(pathlib.Path(sysconfig.get_path("stdlib")) / "argparse.py", folder)
  return folder


@pytest.mark.parametrize("name", FILES)
def test_the_debug_size_builds(name, monkeypatch, small_library):
  """Everything up to the traced train step and the sample of a dry run, on text that is always there."""
  import in_process

  monkeypatch.setattr(sysconfig, "get_path", lambda _: str(small_library))
  config = load(name, "debug")
  kept = {k: v for k, v in (config["data"].get("tokenizer") or {}).items() if k == "sentinels"}
  small = dict(name="text_folder", path=TEXT, tokenizer=dict(name="bytes", **kept), domains="one")
  if config["data"]["name"] in READS_TEXT:
    config["data"] = small
  elif "text" in config["data"]:
    config["data"]["text"] = small
  if config["data"]["name"] == "knowledge_text":
    config["data"]["transe"] = dict(epochs=2)
  run = in_process.build_from(monkeypatch, config)
  assert "loss" in run.metric_names and run.model.size > 0
  assert all(len(row) > 10 for row in sample(run.corpus, 2, run.train.length))
  told = run.abstract_batch(run.curriculum.plan(0, run.curriculum.init()))
  assert in_process.shapes(told) == in_process.shapes(run.batch(0))


if __name__ == "__main__":
  GOLDEN.mkdir(exist_ok=True)
  for stale in GOLDEN.glob("*.json"):
    stale.unlink()
  for config_name in FILES:
    (GOLDEN / f"{config_name}.json").write_text(text(resolved(config_name)), "utf-8")
    print(f"tests/golden/{config_name}.json")
