"""A user's mistake costs seconds and is told in a few lines: which key, what was given, what would be accepted.

Every row of the table goes through the real door. The words behind a mistake must be in the message: the path of the
key as the user writes it, then the nearest valid key, the names accepted, or the numbers that do not divide.
"""

import copy
import os
import pathlib
import time

import door
import jax
import pytest

from llm_jax import experiment, hub, launch_checks
from llm_jax.core import config as configs
from llm_jax.core.errors import ConfigError, DataError
from llm_jax.models import gpt

SYNONYM = "did you mean: config.optimizer.peak"

# arguments -> words of the message. 8 devices; model: 2 heads, width 16; batch 16, 16 tokens, 2 micro-batches.
MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    # Typos, at any depth.
    "typo of a section": (["--config.optimiser.peak=1"], ["config.optimiser", "did you mean: config.optimizer.peak"]),
    "a knob without its section": (["--config.batch_size=3"], ["did you mean: config.train.batch_size"]),
    "another library's name without its section": (["--config.lr=3"], [SYNONYM]),
    "unknown section": (["--config.zzz=1"], ["config.zzz", "unknown key", "model, peft, data"]),
    "typo of a model knob": (["--config.model.widht=8"], ["config.model.widht", "did you mean: config.model.width"]),
    "typo of a data knob": (["--config.data.pakking=pad"], ["config.data.pakking", "config.data.packing"]),
    "typo of a tokenizer knob": (["--config.data.tokenizer.name=sentencepiece", "--config.data.tokenizer.vocab=300"],
                                 ["config.data.tokenizer.vocab", "config.data.tokenizer.vocab_size"]),
    "typo of an optimizer knob": (["--config.optimizer.waight_decay=1"],
                                  ["config.optimizer.waight_decay", "config.optimizer.weight_decay"]),
    "another library's name": (["--config.optimizer.learning_rate=1"], ["config.optimizer.learning_rate", SYNONYM]),
    "typo of a train knob": (["--config.train.stpes=9"], ["config.train.stpes", "did you mean: config.train.steps"]),
    "typo of a mesh axis": (["--config.mesh.tenser=2"], ["config.mesh.tenser", "tensor"]),
    "typo of a guard knob": (["--config.guard.windows=2"], ["config.guard.windows", "config.guard.window"]),
    "a knob of another plug-in": (["--config.optimizer.name=sgd", "--config.optimizer.peak=1",
                                   "--config.optimizer.b2=0.9"], ["config.optimizer.b2", "accepted: "]),
    "a key below a number": (["--config.train.steps.x=1"], ["config.train.steps", "not a section"]),
    # Names of plug-ins.
    "model name": (["--config.model.name=gtp"], ["config.model.name", "'gtp'", "did you mean: gpt"]),
    "data name": (["--config.data.name=text_foldr"], ["config.data.name", "did you mean: text_folder"]),
    "tokenizer name": (["--config.data.tokenizer.name=bite"], ["config.data.tokenizer.name", "did you mean: bytes"]),
    "objective name": (["--config.objective.name=casual_lm"], ["config.objective.name", "did you mean: causal_lm"]),
    "curriculum name": (["--config.curriculum.name=nonee"], ["config.curriculum.name", "did you mean: none"]),
    "meta-learner name": (["--config.meta_learning.name=nonee"], ["config.meta_learning.name", "none"]),
    "optimizer name": (["--config.optimizer.name=adamv"], ["config.optimizer.name", "did you mean: adam"]),
    "a path as a name": (["--config.model.name=../gpt"], ["config.model.name", "'../gpt'"]),
    "a module that is not there": (["--config.model.name=nowhere.gpt"], ["config.model.name", "'nowhere.gpt'"]),
    "a module without build": (["--config.model.name=json.decoder"], ["config.model.name", "build"]),
    "a plug-in as a number": (["--config.model=3"], ["config.model", "3", "dict(name=...)"]),
    "a missing name": (["--config.ema=0.9"], ["config.ema", "0.9", "dict"]),
    # Wrong types and values.
    # Elements of lists and dicts, and numbers that nothing can hold.
    "a pattern that is a number": (["--config.optimizer.freeze=[1]"], ["config.optimizer.freeze[0]", "got 1", "str"]),
    "a prompt that is a number": (["--config.sample.prompts=['a', 1]"], ["config.sample.prompts[1]", "got 1", "str"]),
    "steps that are words": (["--config.adaptation.steps=['x']"], ["config.adaptation.steps[0]", "'x'", "int"]),
    "a size that is a word": (["--config.peft.name=lora", "--config.peft.alphas={'query': 'big'}"],
                              ["config.peft.alphas.query", "'big'", "float"]),
    "no such element": (["--config.sample.prompts=['a']", "--config.sample.prompts.7=b"],
                        ["config.sample.prompts.7", "no element '7'"]),
    "an element by a word": (["--config.sample.prompts=['a']", "--config.sample.prompts.x=b"],
                             ["config.sample.prompts.x", "no element 'x'"]),
    "a norm of 400 digits": ([f"--config.optimizer.clip=1{'0' * 400}"], ["config.optimizer.clip", "1000", "64 bits"]),
    "a batch of 30 zeros": (["--config.train.batch_size=1e30"], ["config.train.batch_size", "1000000", "64 bits"]),
    "a seed of 65 bits": (["--config.train.seed=18446744073709551616"], ["config.train.seed", "64 bits"]),
    "a deviation that is no number": (["--config.guard.sigmas=1e999"], ["config.guard.sigmas", "inf", "finite"]),
    "a window that fills the memory": (["--config.guard.window=1e12"], ["config.guard.window", "1,000,000 steps"]),
    "layers without end": (["--config.model.depth=100000000"], ["config.model.depth", "100000000", "10,000"]),
    "labels below none": (["--config.model.labels=-1"], ["config.model.labels", "-1"]),
    "a pacing without stages": (["--config.curriculum.name=competence", "--config.curriculum.pacing=[]"],
                                ["config.curriculum.pacing.stages", "[]"]),
    "a rate of adaptation below 0": (["--config.adaptation.lr=-1"], ["config.adaptation.lr", "-1"]),
    "a cooldown that is not read": (["--config.optimizer.cooldown=-5"], ["config.optimizer.cooldown", "got -5"]),
    "a knob of another plug-in, named first": (["--config.optimizer.b2=7", "--config.optimizer.name=sgd",
                                                "--config.optimizer.peak=1"], ["config.optimizer.b2", "accepted: "]),
    "text for a number": (["--config.train.steps=many"], ["config.train.steps", "'many'", "int"]),
    "a fraction for a count": (["--config.train.batch_size=2.5"], ["config.train.batch_size", "2.5", "int"]),
    "a number for a switch": (["--config.model.tied=3"], ["config.model.tied", "3", "bool"]),
    "a list for a rate": (["--config.optimizer.peak=[1]"], ["config.optimizer.peak", "[1]", "float"]),
    "no steps": (["--config.train.steps=0"], ["config.train.steps", "got 0"]),
    "no batch": (["--config.train.batch_size=0"], ["config.train.batch_size", "got 0"]),
    "negative rate": (["--config.optimizer.peak=-1e-3"], ["config.optimizer.peak", "-0.001"]),
    "infinite rate": (["--config.optimizer.peak=1e999"], ["config.optimizer.peak", "inf"]),
    "warmup longer than the run": (["--config.optimizer.warmup=500"], ["config.optimizer.warmup", "500", "40"]),
    "unknown decay": (["--config.optimizer.decay=cosin"], ["config.optimizer.decay", "'cosine'"]),
    "unknown remat": (["--config.model.remat=dotz"], ["config.model.remat", "'dotz'", "did you mean: dots"]),
    "unknown activation": (["--config.model.act=gelo"], ["config.model.act", "'gelo'", "gelu"]),
    "unknown attention": (["--config.model.attention=flash"], ["config.model.attention", "'flash'", "'splash'"]),
    "unknown variant": (["--config.model.variant=125m"], ["config.model.variant", "'125m'", "124m"]),
    "dropout of 1": (["--config.model.dropout=1.0"], ["config.model.dropout", "1.0"]),
    "negative dropout": (["--config.model.dropout=-0.1"], ["config.model.dropout", "-0.1"]),
    "no heads": (["--config.model.heads=0"], ["config.model.heads", "0"]),
    "no layers": (["--config.model.depth=0"], ["config.model.depth", "0"]),
    "freezing nothing": (["--config.optimizer.freeze=nothing_of_that_name"], ["config.optimizer.freeze"]),
    "freezing everything": (["--config.optimizer.freeze=."], ["config.optimizer.freeze"]),
    "a broken pattern": (["--config.optimizer.freeze=("], ["config.optimizer.freeze", "'('"]),
    "average that forgets nothing": (["--config.ema.decay=1.0"], ["config.ema.decay", "1"]),
    "stopping on what is not measured": (["--config.early_stopping.metric=eval/los"],
                                         ["config.early_stopping.metric", "eval/los", "eval/loss"]),
    "best by what is not measured": (["--config.checkpoint.best=eval/acuracy"],
                                     ["config.checkpoint.best", "eval/acuracy", "eval/"]),
    "stopping on what is never measured": (["--config.evaluation.every=0"], [
        "config.evaluation.every", "got 0", "config.early_stopping"]),
    "best by what is never measured": (
        ["--config.evaluation.every=0", "--config.early_stopping=None", "--config.checkpoint.best=eval/accuracy"],
        ["config.evaluation.every", "got 0", "config.checkpoint.best"]),
    "keeping no checkpoint": (["--config.checkpoint.keep=0"], ["config.checkpoint.keep", "0"]),
    "logging never": (["--config.log.every=0"], ["config.log.every", "got 0"]),
    "negative temperature": (["--config.sample.temperature=-1"], ["config.sample.temperature", "-1"]),
    "negative workers": (["--config.train.workers=-1"], ["config.train.workers", "-1"]),
    "an objective that the model cannot serve": (["--config.objective.name=regression"],
                                                 ["config.objective", "'regression'", "'scores'", "'gpt' offers"]),
    "masks for a causal model": (["--config.objective.name=masked_lm"], ["config.objective", "'masked' (", "'gpt'"]),
    # Schedulers of data and of losses.
    "unknown pacing": (["--config.curriculum.name=competence", "--config.curriculum.pacing=sqroot"],
                       ["config.curriculum.pacing", "'sqroot'", "did you mean: "]),
    "unknown scorer": (["--config.curriculum.name=competence", "--config.curriculum.scorer=rareness"],
                       ["config.curriculum.scorer", "'rareness'", "rarity"]),
    "no reference model": (["--config.curriculum.name=rho1", "--config.curriculum.reference=/nowhere"],
                           ["config.curriculum.reference", "/nowhere"]),
    "no reward model": (["--config.data={'name': 'problems'}", "--config.objective.name=grpo",
                         "--config.objective.reward.name=model", "--config.objective.reward.folder=/nowhere"],
                        ["config.objective.reward.folder", "'/nowhere'", "the workdir of a run"]),
    "no model to score with": (["--config.curriculum.name=competence",
                                "--config.curriculum.scorer={'name': 'perplexity', 'model': '/nowhere'}"],
                               ["config.curriculum.scorer.model", "/nowhere"]),
    "two that decide the length": (["--config.curriculum=[{'name': 'sequence_length', 'start': 8}, "
                                    "{'name': 'sequence_length', 'start': 4}]"],
                                   ["config.curriculum[1]", "decides length", "config.curriculum[0]"]),
    "a knob that nothing reads": (["--config.curriculum.name=knobs",
                                   "--config.curriculum.knobs={'mask_ratio': {'start': 0.1, 'end': 0.3}}"],
                                  ["config.curriculum.knobs.mask_ratio", "neither these data nor this objective"]),
    "kernels without second derivatives": (["--config.meta_learning.name=maml", "--config.model.attention=splash"],
                                           ["config.model.attention", "'splash'", "config.meta_learning (maml)"]),
    "tasks and mesh": (["--config.meta_learning.name=maml", "--config.train.batch_size=12",
                        "--config.train.accumulate=1"], ["config.train.batch_size", "12 tasks", "8 devices"]),
    # Sizes that do not fit together.
    "heads and width": (["--config.model.heads=3"], ["config.model.heads", "3", "16"]),
    "heads and tensor": (["--config.mesh.data=2", "--config.mesh.tensor=4"], ["config.mesh.tensor", "4", "2"]),
    "batch and mesh": (["--config.train.batch_size=12", "--config.train.accumulate=1"],
                       ["config.train.batch_size", "12", "8"]),
    "batch and micro-batches": (["--config.train.batch_size=8"], ["config.train.batch_size", "8", "16"]),
    "evaluation batch and mesh": (["--config.evaluation.batch_size=12"], ["config.evaluation.batch_size", "12", "8"]),
    "accumulate and batch": (["--config.train.accumulate=3"], ["config.train.accumulate", "3", "16"]),
    "mesh and devices": (["--config.mesh.data=3"], ["config.mesh.data", "data=3", "8 devices", "product is 8"]),
    "an open axis that gets no whole number": (["--config.mesh.data=3", "--config.mesh.fsdp=-1"],
                                               ["config.mesh.data", "data=3", "8 devices", "fsdp=-1", "divisor of 8"]),
    "layers and stages": (["--config.mesh.data=2", "--config.mesh.stage=4"], ["config.mesh.stage", "4", "2"]),
    "batch and pipeline": (["--config.mesh.data=4", "--config.mesh.stage=2", "--config.mesh.microbatches=3"],
                           ["config.train.batch_size", "16", "24", "3 micro-batches"]),
    "rounds and micro-batches": (["--config.mesh.data=4", "--config.mesh.stage=2", "--config.mesh.rounds=2",
                                  "--config.mesh.microbatches=1"], ["config.mesh.microbatches", "1", "2 stages"]),
    "micro-batches and no pipeline": (["--config.mesh.microbatches=4"],
                                      ["config.mesh.microbatches", "4", "config.mesh.stage", "None"]),
    "rounds and no pipeline": (["--config.mesh.rounds=2"], ["config.mesh.rounds", "2", "config.mesh.stage", "1"]),
    "layers and rounds": (["--config.mesh.data=2", "--config.mesh.tensor=2", "--config.mesh.stage=2",
                           "--config.mesh.rounds=2"], ["config.mesh.stage", "2 layers", "2 stages x 2 rounds"]),
    "length and context": (["--config.mesh.data=1", "--config.mesh.context=8", "--config.train.length=12"],
                           ["config.mesh.context", "12", "8"]),
    "heads and context": (["--config.mesh.data=2", "--config.mesh.context=4",
                           "--config.mesh.context_attention=heads"], ["config.mesh.context_attention", "2", "4"]),
    "an override of no axis": (["--config.mesh.overrides=[('kernel', ['embd'])]"],
                               ["config.mesh.overrides", "embd", "embed"]),
    "two open axes": (["--config.mesh.fsdp=-1"], ["config.mesh", "data and fsdp", "-1"]),
    "a mesh axis of 0": (["--config.mesh.fsdp=0"], ["config.mesh.fsdp", "0"]),
    "positions and length": (["--config.model.positions=8"], ["config.model.positions", "8", "16"]),
    "vocabulary and tokenizer": (["--config.data.tokenizer.name=sentencepiece",
                                  "--config.data.tokenizer.vocab_size=10"],
                                 ["config.data.tokenizer.vocab_size", "10"]),
    # Files and data.
    "no data folder": (["--config.data.path=/nowhere/at/all"], ["config.data.path", "/nowhere/at/all"]),
    "an empty data path": (["--config.data.path="], ["config.data.path: got ''"]),
    "a file that is not text": (["--config.data.path=/bin/sh"], ["config.data.path", ".txt"]),
    "an unknown domain": (["--config.data.mixture={'prose': 1.0}"], ["config.data.mixture", "prose"]),
    # Flags.
    "unknown flag": (["--wrkdir=/tmp/x"], ["--wrkdir", "did you mean: --workdir"]),
    "a misspelt config flag": (["--cofnig.train.steps=3"], ["--cofnig.train.steps", "config"]),
    "no dashes": (["config.optimizer.peak=1"], ["config.optimizer.peak=1", "--config.optimizer.peak=1"]),
    "no dashes, and no such key": (["config.lr=1"], ["'config.lr=1'", "did you mean: --config.optimizer.peak=1"]),
    "one word too many": (["more"], ["'more'", "--"]),
    "a config flag without a value": (["--config.train.steps"], ["--config.train.steps", "no value"]),
    "no dashes, and a typo": (["config.optimiser.peak=1"], ["did you mean: --config.optimizer.peak=1"]),
    "a second config": (["--config=other.py"], ["--config: given 2 times", "'other.py'"]),
    "an empty folder": (["--init_from="], ["--init_from: got ''"]),
    "fewer devices than none": (["--fake_devices=-2"], ["--fake_devices=-2"]),
    "a port that cannot be": (["--processes=2", "--process=1", "--coordinator=localhost:99999999"],
                              ["--coordinator", "localhost:99999999", "65535"]),
    "a profile that is none": (["--profile=9"], ["--profile", "'9'", "FIRST:LAST"]),
    "a switch with a value": (["--dry_run=perhaps"], ["dry_run"]),
    "seconds that are none": (["--watchdog_seconds=soon"], ["watchdog_seconds"]),
    "seconds below 0": (["--watchdog_seconds=-5"], ["--watchdog_seconds: got -5", "more than 0"]),
    "seconds that no clock counts": (["--watchdog_seconds=nan"], ["--watchdog_seconds: got nan"]),
    "no weights to start from": (["--init_from=/nowhere"], ["--init_from", "/nowhere"]),
    "W&B that is not installed": (["--config.log.wandb={'mode': 'offline'}"], ["config.log.wandb", "pip install"]),
}


def told(outcome: door.Outcome, words: list[str], code: int = 2) -> None:
  """The outcome is this exit code and a few lines with these words."""
  assert outcome.code == code, outcome
  lines = outcome.err.strip().splitlines()
  assert lines and lines[0].startswith("error: ") and len(lines) <= 10, outcome.err
  assert "Traceback" not in outcome.err
  for word in words:
    assert word in outcome.err, f"{word!r} is not in {outcome.err}"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  """No mistake may get as far as a compilation."""
  def compiles(*_):
    raise AssertionError("the run was started")
  monkeypatch.setattr("llm_jax.training.loop.Loop.run", compiles)
  monkeypatch.setenv("LLM_JAX_MALLOC", "0")


def test_there_are_enough_of_them():
  assert len(MISTAKES) >= 40


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_its_key(mistake, tmp_path):
  arguments, words = MISTAKES[mistake]
  told(door.call(*door.tiny(tmp_path / "run"), *arguments), words)


@pytest.mark.parametrize("text, words", [
    ("def get_config(:\n", [".py:1", "SyntaxError"]),
    ("x = 1\n\nimport nothing_of_that_name\n", [".py:3", "nothing_of_that_name"]),
    ("def get_config(arg=''):\n  return {}['model']\n", [".py:2", "KeyError"]),
    ("def config():\n  return {}\n", ["get_config"]),
    ("def get_config(arg=''):\n  return 7\n", ["get_config", "7"]),
    ("def get_config(arg=''):\n  return {}\n", ["config.model"]),
    ("raise SystemExit(0)\n", [".py:1", "SystemExit"]),
    ("x = {}\nx['x'] = x\ndef get_config(arg=''):\n  return x\n", ["holds itself"]),
    ("raise ValueError('word\\n' * 40)\n", [".py:1", "ValueError: word word"]),
    ("get_config = 3\n", ["get_config", "int"]),
])
def test_a_config_file_that_is_wrong(text, words, tmp_path):
  file = tmp_path / "wrong.py"
  file.write_text(text)
  told(door.call(f"--config={file}", f"--workdir={tmp_path / 'run'}"), words)


@pytest.mark.parametrize("flag, words", [
    ("tests/laws/tiny_rum.py", ["--config", "tiny_rum.py", "did you mean: ", "tiny_run.py"]),
    (f"{door.TINY}:refused", ["--config", "tiny_run.py:", "no such size: refused"]),
    ("configs", ["--config", "configs"]),
    ("README.md", ["--config", "README.md", "Python file"]),
    ("tests/golden/gpt2.json", ["--config", "gpt2.json", "--workdir"]),
    ("", ["--config"]),
])
def test_a_config_flag_that_is_wrong(flag, words, tmp_path, monkeypatch):
  monkeypatch.chdir(door.ROOT)
  told(door.call(f"--config={flag}", f"--workdir={tmp_path}"), words)


def test_the_plug_in_that_is_named_last_keeps_the_knobs_named_before_it():
  schema = {"optimizer": configs.Section("", room="optimizers")}
  config = {"optimizer": {"name": "adamw", "b1": 0.5}}
  configs.override_all(config, [("optimizer.weight_decay", "0.77"), ("optimizer.name", "lion")], schema)
  assert config == {"optimizer": {"name": "lion", "weight_decay": 0.77}}


def test_a_knob_of_a_section_that_the_config_leaves_out_is_one_of_its_default():
  config = {}
  configs.override_all(config, [("objective.label_smoothing", "0.1"), ("curriculum.start", "2")], experiment.SCHEMA)
  assert config == {"objective": {"name": "causal_lm", "label_smoothing": 0.1}, "curriculum": {"start": 2}}
  configs.override_all(config, [("objective.name", "masked_lm")], experiment.SCHEMA)
  assert config["objective"] == {"name": "masked_lm"}


def test_arrays_of_a_config_file_become_lists(tmp_path):
  file = tmp_path / "arrays.py"
  file.write_text("import numpy as np\ndef get_config():\n  return {'a': np.arange(2), 'b': np.int32(3)}\n")
  assert configs.load_file(str(file)) == {"a": [0, 1], "b": 3}


def test_flags_that_are_missing(tmp_path):
  told(door.call(f"--workdir={tmp_path / 'new'}"), ["--config", "required"])
  told(door.call(f"--config={door.TINY}"), ["--workdir", "required"])
  assert not (tmp_path / "new").exists()


def test_a_workdir_that_cannot_be_one(tmp_path):
  (tmp_path / "file").write_text("")
  told(door.call(*door.tiny(tmp_path / "file")), ["--workdir", "file"])


@pytest.mark.parametrize("mistake", ["a profile that is none", "seconds below 0", "no weights to start from"])
def test_flags_are_looked_at_in_a_dry_run_too_and_leave_no_trace(mistake, tmp_path):
  arguments, words = MISTAKES[mistake]
  for dry in ([], ["--dry_run"]):
    told(door.call(*door.tiny(tmp_path / "new" / "run"), *arguments, *dry), words)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dry", [[], ["--dry_run"]])
@pytest.mark.parametrize("held", ["config.json", "model.safetensors", "adapter_model.safetensors"])
def test_a_workdir_that_holds_a_model(held, dry, tmp_path):
  (tmp_path / held).write_text('{"model_type": "gpt2"}')
  told(door.call(*door.tiny(tmp_path), *dry), ["--workdir", "accepted: "])
  assert [p.name for p in tmp_path.iterdir()] == [held] and "gpt2" in (tmp_path / held).read_text()


@pytest.mark.parametrize("dry", [[], ["--dry_run"]])
def test_weights_of_another_shape_leave_no_workdir(dry, tmp_path):
  model = gpt.build(99, 16, variant="debug", width=16, depth=1, heads=2)
  hub.save(tmp_path / "start", model, model.init(jax.random.key(0)))
  outcome = door.call(*door.tiny(tmp_path / "new" / "run"), f"--init_from={tmp_path / 'start'}", *dry)
  told(outcome, ["start is not of this model"], code=4)
  assert [p.name for p in tmp_path.iterdir()] == ["start"]


def test_a_folder_without_text(tmp_path):
  (tmp_path / "data").mkdir()
  told(door.call(*door.tiny(tmp_path / "run", f"--config.data.path={tmp_path / 'data'}")), [str(tmp_path / "data")],
       code=3)


def test_a_pattern_that_takes_nothing(tmp_path):
  (tmp_path / "data.txt").write_text("a few words\n")
  told(door.call(*door.tiny(tmp_path / "run", f"--config.data.path={tmp_path}", "--config.data.files=*.csv")),
       ["*.csv", ".txt"], code=3)


def test_too_little_text(tmp_path):
  (tmp_path / "data.txt").write_text("a few words\n")
  outcome = door.call(*door.tiny(tmp_path / "run", f"--config.data.path={tmp_path / 'data.txt'}"))
  told(outcome, [], code=3)


def test_a_key_that_is_nowhere_is_not_suggested(tmp_path):
  outcome = door.call(*door.tiny(tmp_path / "run"), "config.zzz=1")
  told(outcome, ["'config.zzz=1' is not a flag"])
  assert "did you mean" not in outcome.err


@pytest.mark.parametrize("error", [
    RuntimeError("Unable to initialize backend 'foo': no such thing (set JAX_PLATFORMS='' to choose)"),
    RuntimeError("Unknown backend: 'foo' requested"), AssertionError()], ids=repr)
def test_a_platform_that_is_not_here(error, tmp_path, monkeypatch):
  def backends(*_):  # as jax calls it
    raise error
  monkeypatch.setattr("jax.devices", backends)
  monkeypatch.setenv("JAX_PLATFORMS", "foo")
  told(door.call(*door.tiny(tmp_path / "run")), ["JAX_PLATFORMS: got 'foo'", "accepted"])


def test_less_text_than_a_batch_serves_all_but_training(tmp_path):
  (tmp_path / "data.txt").write_text("a few words and a few more " * 4)
  made = configs.load_file(door.TINY)
  made["data"] = {"name": "text_folder", "path": str(tmp_path / "data.txt"), "tokenizer": {"name": "bytes"}}
  run = experiment.build(made)
  with pytest.raises(DataError, match=r"data\.txt") as caught:
    launch_checks.check_enough(run)
  assert "config.train.batch_size" in str(caught.value)


def test_a_fault_that_is_none(tmp_path, monkeypatch):
  monkeypatch.setenv("LLM_JAX_FAULT", "garbage")
  told(door.call(*door.tiny(tmp_path / "run")), ["LLM_JAX_FAULT", "garbage", "kind:process:step"])


@pytest.mark.parametrize("mistake", ["typo of a model knob", "no dashes", "mesh and devices", "heads and tensor"])
def test_it_is_told_quickly_by_the_real_door(mistake, tmp_path):
  """At most 5 s of processor time in a process of its own: the clock on the wall knows what else the machine does."""
  arguments, words = MISTAKES[mistake]
  before, start = os.times(), time.monotonic()
  outcome = door.spawn(*door.tiny(tmp_path / "run"), *arguments, devices=8)
  after = os.times()
  told(outcome, words)
  used = after.children_user + after.children_system - before.children_user - before.children_system
  assert used < 5, f"{used:.1f} s of processor time, {time.monotonic() - start:.1f} s on the wall"
  assert not pathlib.Path(tmp_path / "run").exists()


def test_an_error_crosses_processes_whole():
  error = ConfigError("config.data.path", "no such folder", accepted="a folder", nearest="here")
  again = copy.copy(error)  # by the same protocol as pickle
  assert (str(again), again.key, again.nearest) == (str(error), error.key, error.nearest)
