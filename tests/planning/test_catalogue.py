"""Every config of the catalogue from 100M parameters up compiles for a TPU that is not here, and fits.

Found from the config files and the published sizes of the models that they name: a new file or size is in it at once.
What rots is a flag that the compiler no longer knows, a shape that a kernel refuses, a size that has outgrown its mesh.
The compiler is asked for its least effort: a quarter of the time and the memory to a percent or two; its cycles mean
nothing then.
"""

import importlib
import importlib.util
import pathlib

import jax
import pytest

from llm_jax import experiment, plan
from llm_jax.core import config as configs
from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.planning import topology

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
TOPOLOGY = "v5p:4x4x4"
SMALLEST = 100_000_000
TOKENS = 8192  # of one device, about
EFFORT = ("jax_exec_time_optimization_effort", "jax_memory_fitting_effort")


def sizes_of(name: str) -> list[str]:
  """The arguments under which a config file offers a published size of its model, and none: its default."""
  default = configs.load_file(f"{CONFIGS / name}.py")
  module = importlib.import_module(f"llm_jax.models.{default['model']['name']}")
  found = [""]
  for size in getattr(module, "VARIANTS", {}):
    try:
      config = configs.load_file(f"{CONFIGS / name}.py:{size}")
    except ConfigError:  # an argument of another kind, not a size
      continue
    if not size.startswith("debug") and config["model"].get("variant") == size != default["model"].get("variant"):
      found.append(size)
  return found


CATALOGUE = [f"{path.stem}:{size}".removesuffix(":") for path in sorted(CONFIGS.glob("*.py")) for size in
             sizes_of(path.stem)]


def load(name: str) -> dict:
  file, _, size = name.partition(":")
  return configs.load_file(f"{CONFIGS / file}.py" + (f":{size}" if size else ""))


def parameters(config: dict) -> int:
  """Of the config's model, with the vocabulary that it says."""
  resolved = configs.resolve(config, experiment.SCHEMA)
  config, vocab_size = plan.without_tokenizer(config, None)
  return plugins.bind("models", resolved["model"], "config.model")(vocab_size or 256, resolved["train"]["length"]).size


@pytest.fixture
def least_effort():
  """Of the compiler."""
  before = [getattr(jax.config, name) for name in EFFORT]
  for name in EFFORT:
    jax.config.update(name, -1.0)
  yield
  for name, value in zip(EFFORT, before):
    jax.config.update(name, value)


def test_the_catalogue_is_found():
  families = {name.partition(":")[0] for name in CATALOGUE}
  assert {"gpt2", "decoder", "bert", "t5", "xlnet", "electra", "ernie", "deberta"} <= families
  assert {"decoder:mixtral-8x7b", "decoder:qwen3-30b-a3b", "bert:roberta-large", "t5:11b"} <= set(CATALOGUE)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="pip install 'llm_jax[plan]'")
@pytest.mark.slow
@pytest.mark.usefixtures("least_effort")
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_large_config_compiles_and_fits(name):
  config, target = load(name), topology.parse(TOPOLOGY)
  if (size := parameters(config)) < SMALLEST:
    pytest.skip(f"{size:,} parameters")
  config["train"] |= dict(batch_size=target.count * max(1, TOKENS // config["train"]["length"]), accumulate=1)
  found = plan.planned(config, target, title=name, advise=False)
  assert found["memory"]["fits"], found["memory"]
  assert found["time"]["cycles"] > 0
  peak, seconds = found["memory"]["peak"] / 2**30, found["compile_seconds"]
  print(f"{name}: {size:,} parameters, peak {peak:.2f} GiB, compiled in {seconds:.0f} s")
