"""Preferences in whole runs: the reference is the model as the run starts, a mesh changes nothing, and what is learned
tells held-out pairs apart."""

import json

import jax
import numpy as np
import pytest

from llm_jax import experiment, pretrained
from llm_jax.core.errors import CheckpointError, ConfigError
from llm_jax.frozen_models import REFERENCE
from llm_jax.models import gpt
from llm_jax.training import metrics
from llm_jax.training.session import Session
from llm_jax.training.step import knobs_of

TINY = dict(name="gpt", variant="debug", width=32, heads=2, depth=1)
OBJECTIVES = {name: dict(name=name) for name in ("dpo", "kto", "orpo", "reward")}


@pytest.fixture(autouse=True)
def _shipped_text(monkeypatch):
  """The small text that lies in the package, in place of Python's library."""
  monkeypatch.setattr("llm_jax.data.preference_sources.library", lambda domains: None)


def config(name: str, **changes) -> dict:
  head = dict(head="sequence", labels=1) if name == "reward" else {}
  return {
      "model": TINY | head, "objective": OBJECTIVES[name] | changes.pop("objective", {}),
      "data": {"name": "preferences", "form": "unpaired" if name == "kto" else "pairs", "damage": "letters",
               "characters": 64, "validation_fraction": 0.2,
               "tokenizer": {"name": "bytes", "special": ("eod", "pad")}},
      "optimizer": {"name": "adamw", "peak": 3e-3}, "mesh": {"data": -1}, "evaluation": {"batches": 2},
      "train": {"steps": 4, "batch_size": 8, "length": 64, "accumulate": changes.pop("accumulate", 1)},
      "log": {"tensorboard": False, "report": False}, **changes}


def steps(run: experiment.Run, state, count: int = 2):
  """(state, metrics of each of the first steps)."""
  rows = []
  for step in range(count):
    plan = run.curriculum.plan(step, run.curriculum.init())
    state, vector = run.compiled_step(state, run.batch(step), knobs_of(plan))
    rows.append(dict(zip(run.metric_names, np.asarray(vector).tolist(), strict=True)))
  return state, rows


def referred(state) -> dict[str, np.ndarray]:
  return {n.removeprefix(REFERENCE): np.asarray(a) for n, a in state.frozen.items() if n.startswith(REFERENCE)}


def test_the_reference_is_the_model_as_the_run_starts_and_stays_so():
  run = experiment.build(config("dpo"))
  given = {n: np.asarray(a) + 0.01 for n, a in run.base.init(jax.random.key(5)).items()}
  for state, want in ((run.init_state(), None), (run.state_from(given), given)):
    want = {n: np.asarray(a) for n, a in state.params.items()} if want is None else want
    state, rows = steps(run, state)
    np.testing.assert_allclose([rows[0]["loss"], rows[0]["rewards_margins"]], [np.log(2), 0.0], atol=1e-5)
    assert rows[1]["loss"] != rows[0]["loss"]
    found = referred(state)
    assert found.keys() == want.keys() == state.params.keys()
    for n, a in found.items():
      np.testing.assert_array_equal(a, want[n], err_msg=n)
    assert any((np.asarray(state.params[n]) != a).any() for n, a in found.items())


def test_of_an_adapter_the_reference_holds_the_trained_arrays_alone():
  run = experiment.build(config("dpo", peft=dict(name="lora", rank=2)))
  state, rows = steps(run, run.init_state())
  assert referred(state).keys() == state.params.keys() < run.model.shapes.keys()
  np.testing.assert_allclose(rows[0]["loss"], np.log(2), atol=1e-5)


def test_a_statistic_of_the_whole_batch_is_refused_in_micro_batches():
  with pytest.raises(ConfigError, match=r"config\.train\.accumulate: .*its batch"):
    experiment.build(config("kto", accumulate=2))
  with pytest.raises(ConfigError, match=r"config\.objective: reads .*completion"):
    experiment.build(config("kto", data=config("dpo")["data"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_device_and_a_mesh_have_the_same_losses(name, monkeypatch):
  with monkeypatch.context() as patch:
    first = jax.devices()[:1]
    patch.setattr(jax, "devices", lambda *_: first)
    run = experiment.build(config(name))
    alone = steps(run, run.init_state())[1]
  run = experiment.build(config(name, mesh=dict(data=2, fsdp=2, tensor=2)))
  for a, b in zip(alone, steps(run, run.init_state())[1]):
    np.testing.assert_allclose([a[k] for k in a], [b[k] for k in a], rtol=3e-4, atol=3e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_held_out_pairs_are_told_apart(name, tmp_path):
  made = config(name, train=dict(steps=80, batch_size=16, length=64), evaluation=dict(every=40, batches=8))
  if name == "reward":  # which has no log-probabilities to start from: completions that differ more
    answers = [(f" as {i * 7919 % 1009} bees agree", f" as {i * 4957 % 1009} cows oppose") for i in range(300)]
    rows = [json.dumps(dict(prompt=f"number {i}", chosen=a, rejected=b)) for i, (a, b) in enumerate(answers)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    made["data"] |= dict(path=str(tmp_path / "pairs.jsonl"))
  Session(experiment.build(made), tmp_path / name, lambda state: [], lambda length: 0.0).train()
  measured = [row["eval/rewards_accuracies"] for row in metrics.rows(tmp_path / name)
              if "eval/rewards_accuracies" in row]
  assert measured[-1] > 0.75, measured


@pytest.mark.slow
def test_a_resumed_run_has_the_reference_of_its_start(tmp_path):
  def trained(folder, steps):
    made = config("dpo", train=dict(steps=steps, batch_size=8, length=64), evaluation=dict(every=1, batches=1))
    made["optimizer"] |= dict(decay="constant")
    Session(experiment.build(made), folder, lambda state: [], lambda length: 0.0).train()
    return [metrics.deterministic(row) for row in metrics.rows(folder)]
  trained(tmp_path / "b", 2)
  assert trained(tmp_path / "b", 4)[-1] == trained(tmp_path / "a", 4)[-1]


@pytest.mark.slow
def test_another_run_is_a_reference_and_the_start_of_a_reward_model(tmp_path):
  first = config("orpo", train=dict(steps=2, batch_size=8, length=64))
  Session(experiment.build(first), tmp_path, lambda state: [], lambda length: 0.0).train()
  run = experiment.build(config("dpo", objective=dict(reference=str(tmp_path))))
  _, rows = steps(run, run.init_state())
  assert abs(rows[0]["loss"] - np.log(2)) > 1e-3
  with pytest.raises(ConfigError, match=r"config\.objective\.reference: no such folder"):
    experiment.build(config("dpo", objective=dict(reference="/none")))
  scored = experiment.build(config("reward"))
  body = pretrained.initial(str(tmp_path), scored.base)
  assert scored.model.shapes.keys() - body.keys() == {"classifier.score.kernel"}
  _, rows = steps(scored, scored.state_from(body), 1)
  assert np.isfinite(rows[0]["loss"])
  for changes, name in ((dict(norms="post", head="sequence"), "final_norm"), (dict(tied=False), "head")):
    with pytest.raises(CheckpointError, match=name):
      pretrained.initial(str(tmp_path), gpt.build(258, 64, variant="debug", width=32, heads=2, depth=1, **changes))
