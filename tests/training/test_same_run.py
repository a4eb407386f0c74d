"""A resume under another model, tokenizer, data or optimizer is refused by name; harmless changes are printed."""

import copy

import pytest

from llm_jax.core.errors import CheckpointError
from llm_jax.training.same_run import check_same_run

CONFIG = {
    "seed": 0, "steps": 1000, "batch": 8,
    "model": {"name": "gpt", "width": 128, "remat": "none", "scan": True, "attention": "auto"},
    "data": {"name": "text_folder", "path": "/a", "tokenizer": {"name": "bytes"}, "weights": (1, 2)},
    "optimizer": {"name": "adamw", "peak": 1e-3, "warmup": 100, "horizon": 1000, "b2": 0.95},
    "fingerprint": "ab12", "eval": {},
}


def changed(path, value):
  config = copy.deepcopy(CONFIG)
  *parents, last = path.split(".")
  place = config
  for key in parents:
    place = place[key]
  place[last] = value
  return config


@pytest.mark.parametrize("path, value", [
    ("model.width", 256), ("model.name", "llama"), ("data.tokenizer.name", "characters"), ("fingerprint", "ff00"),
    ("optimizer.peak", 2e-3), ("optimizer.name", "lion"), ("optimizer.b2", 0.99)])
def test_another_run_is_refused(path, value):
  with pytest.raises(CheckpointError) as caught:
    check_same_run(CONFIG, changed(path, value))
  assert f"{path}: " in str(caught.value) and repr(value) in str(caught.value) and "--init_from" in str(caught.value)


@pytest.mark.parametrize("path, value", [
    ("steps", 2000), ("optimizer.warmup", 200), ("optimizer.horizon", 2000), ("model.remat", "full"),
    ("model.attention", "xla"), ("data.path", "/moved"), ("batch", 16), ("seed", 1),
    ("eval", {"every": 5}), ("model.new_knob", 3)])
def test_allowed_changes_are_notes(path, value):
  notes = check_same_run(CONFIG, changed(path, value))
  assert notes and all(note.startswith(path) or path.startswith(note.split(":")[0]) for note in notes)


def test_what_json_does_to_a_config_is_no_change():
  assert check_same_run(changed("data.weights", [1, 2]), CONFIG) == []


def test_many_differences_stay_on_a_screen():
  other = changed("model", {f"k{i}": 1 for i in range(30)})
  with pytest.raises(CheckpointError) as caught:
    check_same_run(other, changed("model", {f"k{i}": 2 for i in range(30)}))
  assert "(30 in all)" in str(caught.value) and len(str(caught.value).splitlines()) <= 10
