"""The rules of the house, read from the source: imports go one way, nothing runs what a stranger wrote, every knob is
documented, no file is a drawer for leftovers.
"""

import ast
import importlib
import inspect
import pathlib
import re
import subprocess
import sys
import typing

import pytest

from llm_jax import experiment
from llm_jax.core import plugins

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "llm_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# room: the rooms that it may import (itself always). Files directly in llm_jax/ are the wiring and the doors.
MAY_IMPORT = {
    "core": (),
    "parallel": ("core",),
    "layers": ("core", "parallel"),
    "models": ("core", "parallel", "layers"),
    "peft": ("core", "parallel", "layers", "models"),
    "compression": ("core", "parallel", "layers", "models"),
    "objectives": ("core",),
    "rewards": ("core",),
    "curriculum": ("core",),
    "meta_learning": ("core",),
    "optimizers": ("core",),
    "data": ("core",),
    "training": ("core", "parallel", "optimizers"),
    "planning": ("core", "parallel", "training"),
    "hub": ("core", "parallel", "layers", "models", "data", "peft"),
    "inference": ("core", "parallel", "layers", "models"),
    "evaluation": ("core", "parallel", "layers", "models", "meta_learning"),
}
FLAX = ("core/model.py", "layers/", "models/", "peft/", "compression/")
MESH = ("parallel/",)
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "tools"}
ROOMS = sorted({s.room for s in experiment.SCHEMA.values() if s.room}
               | {n.room for s in experiment.SCHEMA.values() for n in (s.nested or {}).values() if n.room})


def below(file: pathlib.Path) -> str:
  return file.relative_to(PACKAGE).as_posix()


def imports(file: pathlib.Path) -> list[tuple[str, int]]:
  """(absolute module, line) of every import in a file, also of those inside functions."""
  found = []
  for node in ast.walk(ast.parse(file.read_text("utf-8"))):
    if isinstance(node, ast.Import):
      found += [(alias.name, node.lineno) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{file}:{node.lineno}: a relative import"
      found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
  return found


def test_imports_go_one_way():
  wrong = []
  for file in FILES:
    room = below(file).split("/")[0]
    for module, line in imports(file):
      parts = module.split(".")
      if parts[0] in ("configs", "experiments", "notebooks", "benchmarks", "tests"):
        wrong.append(f"{below(file)}:{line} imports {module}")
      if parts[0] == "llm_jax" and room in MAY_IMPORT and len(parts) > 1 and parts[1] not in (room, *MAY_IMPORT[room]):
        wrong.append(f"{below(file)}:{line} imports {module}")
  assert not wrong, "\n".join(wrong)


def test_every_room_has_its_rule():
  assert {p.parent.name for p in PACKAGE.glob("*/__init__.py")} <= MAY_IMPORT.keys()


def test_flax_and_the_mesh_stay_in_their_rooms():
  wrong = []
  for file in FILES:
    for module, line in imports(file):
      if module.startswith("flax") and not below(file).startswith(FLAX):
        wrong.append(f"{below(file)}:{line} imports {module}")
      if module.endswith("PartitionSpec") and not below(file).startswith(MESH):
        wrong.append(f"{below(file)}:{line} imports {module}")
  assert not wrong, "\n".join(wrong)


def test_nothing_runs_what_a_stranger_wrote():
  """No pickle, eval, exec, yaml.load, torch.load, shell. (A config is executed, by name on the command line.)"""
  wrong = []
  for file in FILES:
    for module, line in imports(file):
      if module.split(".")[0] in ("pickle", "cloudpickle", "dill", "marshal", "shelve", "torch"):
        wrong.append(f"{below(file)}:{line} imports {module}")
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
      if not isinstance(node, ast.Call):
        continue
      name = ast.unparse(node.func)
      shell = any(k.arg == "shell" and not (isinstance(k.value, ast.Constant) and k.value.value is False)
                  for k in node.keywords)
      pickles = any(k.arg == "allow_pickle" and not (isinstance(k.value, ast.Constant) and k.value.value is False)
                    for k in node.keywords)
      if name in ("eval", "exec", "yaml.load", "torch.load", "os.system", "pickle.load") or shell or pickles:
        wrong.append(f"{below(file)}:{node.lineno} calls {name}")
  assert not wrong, "\n".join(wrong)


def test_the_data_path_has_no_hidden_randomness():
  """Batches are a function of seed, step and plan: no global generator, no clock."""
  pattern = re.compile(r"np\.random\.(?!Generator|Philox|SeedSequence|default_rng\(\S)|^import random|random\.seed|"
                       r"\btime\.time\(|datetime\.now", re.MULTILINE)
  wrong = [f"{below(f)}: {m.group()}" for f in FILES if below(f).startswith(("data/", "curriculum/"))
           for m in pattern.finditer(f.read_text("utf-8"))]
  assert not wrong, "\n".join(wrong)


def test_no_file_is_a_drawer():
  assert not [below(f) for f in FILES if f.stem in FORBIDDEN_NAMES]


def test_every_file_says_what_it_is():
  assert not [below(f) for f in FILES if not ast.get_docstring(ast.parse(f.read_text("utf-8")))]


@pytest.mark.parametrize("room", ROOMS)
def test_every_knob_is_documented_typed_and_buildable(room):
  """Every plug-in that the loader offers: knobs are keyword-only, typed and explained, and nothing else is."""
  names = plugins.available(room)
  assert names, f"no plug-in in {room}"
  wrong, contexts = [], {}
  for name in names:
    build = plugins.find(room, name, f"config.{room}.name").build
    if not inspect.getdoc(build):
      wrong.append(f"{room}/{name}: build has no docstring")
    knobs, explained = plugins.knobs_of(build), plugins.documented_args(build)
    wrong += [f"{room}/{name}: {k} has no meaning in Args" for k in knobs if not explained.get(k)]
    wrong += [f"{room}/{name}: Args explains {k}, which is no knob" for k in explained.keys() - knobs.keys()]
    wrong += [f"{room}/{name}: {k} has no type" for k, knob in knobs.items() if knob.annotation is typing.Any]
    positional = [p for p in inspect.signature(build).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    wrong += [f"{room}/{name}: {p} is neither context nor knob" for p in positional
              if p.kind is not p.POSITIONAL_OR_KEYWORD or p.default is not p.empty]
    contexts.setdefault(len(positional), []).append(name)
  assert not wrong, "\n".join(wrong)
  assert len(contexts) == 1, f"plug-ins of {room} are handed different numbers of things: {contexts}"


@pytest.mark.parametrize("name", [n for n, s in experiment.SCHEMA.items() if s.function or s.shared])
def test_every_section_is_documented(name):
  section = experiment.SCHEMA[name]
  for function in section.functions:
    knobs = plugins.knobs_of(function)
    assert knobs and not [k for k, knob in knobs.items() if not knob.meaning], function


def test_a_module_has_what_it_exports():
  """What stands in `__all__`."""
  for file in FILES:
    exported = re.search(r"^__all__ = ", file.read_text("utf-8"), re.MULTILINE)
    if exported:
      module = importlib.import_module("llm_jax." + below(file)[:-3].replace("/", ".").removesuffix(".__init__"))
      assert not [n for n in module.__all__ if not hasattr(module, n)]


def test_benchmarks_that_pytorch_runs_need_no_package_of_ours():
  """PyTorch lives in an environment of its own, where the driver of decoding is its own worker."""
  program = "import sys; sys.path.insert(0, sys.argv[1]); import decode, worker"
  command = [sys.executable, "-I", "-S", "-c", program, str(ROOT / "benchmarks")]
  assert subprocess.run(command, check=False).returncode == 0
