"""The door that writes text: a flag that cannot be, or that nothing would read, is told before a model is loaded."""

import types

import jax
import pytest

from llm_jax import doors, generate, pretrained
from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.inference import samples
from llm_jax.training import settings


class Letters:
  """A tokenizer of 26 ids."""

  special = types.MappingProxyType({"pad": 0})
  vocab_size, begin_of_document, end_of_document = 26, None, None

  def encode(self, text):
    return [ord(c) - ord("a") for c in text]

  def decode(self, ids):
    return "".join(chr(ord("a") + i) for i in ids)


def short():
  """A model of 8 positions."""
  return plugins.bind("models", {"name": "gpt", "variant": "debug", "positions": 8}, "config.model")(26, 8)


def told(capsys, *arguments):
  """What the door says on its way out with code 2."""
  with pytest.raises(SystemExit) as stop:
    doors.run(generate.main, generate.define, ["generate", *arguments])
  said = capsys.readouterr()
  assert stop.value.code == 2 and len(said.err.splitlines()) <= 10 and not said.out
  return said.err


@pytest.fixture
def unloaded(monkeypatch):
  def load(*_, **__):
    raise AssertionError("a model was loaded")
  monkeypatch.setattr(pretrained, "from_workdir", load)
  monkeypatch.setattr(pretrained, "from_hub", load)


@pytest.mark.parametrize("arguments, words", [
    (["--workdir="], ["--workdir: got ''"]), (["--hf="], ["--hf: got ''"]),
    (["--workdir=a", "--hf=b"], ["either --workdir or --hf"]),
    (["--hf=a", "--step=77"], ["--step:", "--workdir"]), (["--hf=a", "--ema"], ["--ema:", "--workdir"]),
    *[(["--workdir=a", f"--seed={seed}"], [f"--seed={seed}", "4294967295"]) for seed in (-1, 2**32, 10**20)],
    *[(["--workdir=a", flag], [flag]) for flag in ("--beams=0", "--beams=-3", "--max_new_tokens=0")],
    *[(["--workdir=a", "--beams=2", flag], [f"{flag.split('=')[0]}: beam search"]) for flag in (
        "--temperature=0.5", "--top_p=0.9", "--top_k=3", "--min_p=0.1")],
    (["--workdir=a", "--stop="], ["--stop: got ''"]),
    (["--workdir=a", "--prompt=\udcff"], ["--prompt:", "UTF-8"]),
    (["--workdir=a", "--stop=\udcff"], ["--stop:", "UTF-8"]),
    *[(["--workdir=a", f"--{name}={value}"], [f"--{name}: got", "accepted"]) for name, value in (
        ("top_p", 2), ("top_p", "nan"), ("temperature", -1), ("temperature", "nan"), ("temperature", "1e999"),
        ("temperature", 1e-60), ("top_k", -1), ("top_k", 10**11), ("min_p", 3), ("repetition_penalty", 0))]], ids=str)
def test_a_flag_that_cannot_be_is_told_before_a_model_is_loaded(unloaded, capsys, arguments, words):
  said = told(capsys, *arguments)
  assert all(word in said for word in words) and "sampling." not in said, said


@pytest.mark.parametrize("flags, words", [
    (["--beams=27"], ["--beams: got 27", "at most 26"]),
    (["--beams=2", "--prompt=abc", "--max_new_tokens=9"], ["--max_new_tokens: 3 prompt tokens", "at most 5"])])
def test_what_the_model_cannot_do_is_told_by_the_flag(capsys, monkeypatch, flags, words):
  model = short()
  params = model.init(jax.random.key(0))
  monkeypatch.setattr(pretrained, "from_workdir", lambda *_, **__: (model, params, Letters()))
  said = told(capsys, "--workdir=a", *flags)
  assert all(word in said for word in words), said


def test_beams_end_at_a_stop_text_too(capsys, monkeypatch):
  model = short()
  params = model.init(jax.random.key(0))
  monkeypatch.setattr(pretrained, "from_workdir", lambda *_, **__: (model, params, Letters()))
  def said(*more):
    with pytest.raises(SystemExit) as ended:
      doors.run(generate.main, generate.define, ["generate", "--workdir=a", "--prompt=abc", "--beams=2", "--greedy",
                                                 "--max_new_tokens=4", *more])
    assert ended.value.code == 0
    return capsys.readouterr().out.strip()
  whole = said()
  assert len(whole) == 7 and said(f"--stop={whole[5:]}") == whole[:whole.index(whole[5:], 3)]


@pytest.mark.parametrize("changes, key", [
    (dict(temperature=float("inf")), "temperature"), (dict(temperature=float("nan")), "temperature"),
    (dict(top_k=2**40), "top_k"), (dict(prompts=("a" * 8,)), "prompts")])
def test_texts_during_training_are_checked_before_it_begins(changes, key):
  section = settings.Sample(**{**dict(every=1, prompts=("a",), tokens=4, temperature=1.0, top_k=None), **changes})
  with pytest.raises(ConfigError) as caught:
    samples.Sampler(short(), Letters(), section, 0)
  assert caught.value.key == f"config.sample.{key}"
