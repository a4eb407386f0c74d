"""Curricula in whole runs: compilations, exact resume of what adapts, no curriculum where there is none."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import doors, experiment, plan
from llm_jax.core import plugins
from llm_jax.core.config import resolve
from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Plan
from llm_jax.training import metrics
from llm_jax.training.session import Session
from llm_jax.training.weights import load_params


@pytest.fixture(autouse=True)
def _cache(cache_dir, monkeypatch):
  monkeypatch.setenv("LLM_JAX_CACHE", str(cache_dir))


def text(folder, **sections):
  return {"model": dict(name="gpt", variant="debug", width=16, depth=1, heads=2, scan=False),
          "data": dict(name="text_folder", path=str(folder), tokenizer={"name": "bytes"}, validation_fraction=0.1),
          "optimizer": dict(name="adamw", peak=1e-2, warmup=2), "train": dict(steps=12, batch_size=8, length=16),
          "evaluation": dict(every=0, batches=1), "checkpoint": dict(every=0),
          "log": dict(every=1, tensorboard=False, report=False), **sections}


def parity(**sections):
  return {"model": dict(name="mlp", inputs=12, hidden=(16,), init="uniform"),
          "data": dict(name="parity", dimensions=12, k=2, eval_rows=64), "objective": "margin",
          "optimizer": dict(name="sgd", peak=0.1, decay="constant"), "train": dict(steps=24, batch_size=16, length=1),
          "evaluation": dict(every=5, batch_size=64), "checkpoint": dict(every=6, keep=None),
          "log": dict(every=1, tensorboard=False, report=False), **sections}


def train(config, workdir):
  run = experiment.build(config)
  Session(run, workdir, lambda state: [], lambda length: 0.0).train()
  return run


def params(workdir):
  return {n: np.asarray(a) for n, a in load_params(workdir / "checkpoints").params.items()}


def same(a, b):
  return a.keys() == b.keys() and all((a[n] == b[n]).all() for n in a)


@pytest.fixture(scope="module")
def compiled():
  """Names of what was compiled, as it happens."""
  names = []
  jax.monitoring.register_event_duration_secs_listener(
      lambda event, _, **k: names.append(k.get("fun_name")) if event.endswith("backend_compile_duration") else None)
  return names


def rows(workdir):
  timeless = lambda row: {k: v for k, v in row.items() if not k.startswith("time/") and "_per_second" not in k}
  return [timeless(row) for row in metrics.rows(workdir)]


def test_one_compilation_for_each_planned_shape(folder, tmp_path, compiled):
  compiled.clear()
  run = train(text(folder, curriculum=[dict(name="sequence_length", start=8, until=8),
                                       dict(name="competence", until=10)]), tmp_path)
  assert run.curriculum.shapes() == {(16, 8), (8, 16)}
  assert compiled.count("jit(step)") == 2
  length = [row["curriculum/length"] for row in metrics.rows(tmp_path) if "curriculum/length" in row]
  assert length[0] == 8 and length[-1] == 16


def test_knobs_do_not_compile_again(tmp_path, compiled):
  compiled.clear()
  train(parity(curriculum=dict(name="self_paced", start=4.0, end=9.0), evaluation=dict(every=0)), tmp_path)
  assert compiled.count("jit(step)") == 1
  found = [row for row in metrics.rows(tmp_path) if "train/loss" in row]
  assert len({row["curriculum/self_paced_threshold"] for row in found}) == 24 and "train/plain_loss" in found[0]


@pytest.mark.parametrize(("data", "objective", "meta", "knobs"), [
    (dict(name="sinusoids", support=4, query=8), "regression", "maml", {"k_shot": dict(start=1, end=4, whole=True)}),
    (dict(name="topics", ways=4, shots=2, query=2, vocabulary=12), "prototypical", "none",
     {"n_way": dict(start=2, end=4, whole=True), "k_shot": dict(start=1, end=2, whole=True)})])
def test_ways_and_shots_do_not_compile_again(tmp_path, compiled, data, objective, meta, knobs):
  compiled.clear()
  ways = dict(ways=4) if objective == "prototypical" else {}
  inputs = dict(inputs=12, outputs=6) if data["name"] == "topics" else {}
  train(parity(model=dict(name="mlp", hidden=(8,), init="he", **inputs), data=data | dict(eval_tasks=16),
               objective=dict(name=objective, **ways), meta_learning=dict(name=meta), adaptation=dict(steps=(0, 1)),
               curriculum=dict(name="knobs", knobs=knobs, until=8),
               evaluation=dict(every=0, batch_size=16), train=dict(steps=12, batch_size=16, length=1)), tmp_path)
  assert compiled.count("jit(step)") == 1
  found = [row for row in metrics.rows(tmp_path) if "train/loss" in row]
  for name, spec in knobs.items():
    values = [row[f"curriculum/{name}"] for row in found]
    assert values[0] == spec["start"] and values[-1] == spec["end"]
  assert all(np.isfinite(row["train/loss"]) for row in found)


def test_none_is_no_curriculum_and_a_constant_schedule_is_none(folder, tmp_path):
  plain = text(folder)
  assert resolve(plain, experiment.SCHEMA) == resolve({**plain, "curriculum": "none"}, experiment.SCHEMA)
  constant = text(folder, curriculum=[dict(name="sequence_length", start=16),
                                      dict(name="competence", c0=1.0)])
  train(plain, tmp_path / "plain")
  train(constant, tmp_path / "constant")
  assert same(params(tmp_path / "plain"), params(tmp_path / "constant"))


@pytest.mark.parametrize("name", ["teacher_student", pytest.param("odm", marks=pytest.mark.slow),
                                  pytest.param("exp3s", marks=pytest.mark.slow)])
def test_what_adapts_resumes_bit_for_bit(tmp_path, name):
  config = parity(curriculum=dict(name=name, draws=4))
  train(config, tmp_path / "whole")
  weights = [row[k] for row in rows(tmp_path / "whole") for k in row if k == "curriculum/policy/dense"]
  assert name == "exp3s" or len(set(weights)) > 5  # it does adapt
  for back_to in (6, 18):
    torn = tmp_path / f"torn{back_to}"
    shutil.copytree(tmp_path / "whole", torn)
    for step in torn.joinpath("checkpoints").iterdir():
      if step.name.isdigit() and int(step.name) > back_to:
        shutil.rmtree(step)
    train(config, torn)
    assert same(params(torn), params(tmp_path / "whole")) and rows(torn) == rows(tmp_path / "whole")


def test_a_plan_does_not_depend_on_when_the_run_evaluates_or_saves(tmp_path):
  curriculum = dict(name="odm", draws=4)
  train(parity(curriculum=curriculum), tmp_path / "often")
  train(parity(curriculum=curriculum, evaluation=dict(every=0, batch_size=64), checkpoint=dict(every=0)),
        tmp_path / "never")
  assert same(params(tmp_path / "often"), params(tmp_path / "never"))


@pytest.mark.slow
def test_doremi_and_rho_take_a_reference_and_leave_a_result(folder, tmp_path):
  train(text(folder), tmp_path / "reference")
  source = str(tmp_path / "reference")
  train(text(folder, curriculum=dict(name="doremi", reference=source)), tmp_path / "doremi")
  result = json.loads((tmp_path / "doremi" / "curriculum.json").read_text())
  assert result["steps"] == 12 and sum(result["mixture"].values()) == pytest.approx(1)
  run = train(text(folder, curriculum=dict(name="rho1", reference=source, share=0.5)), tmp_path / "rho1")
  kept = [row["train/kept"] for row in metrics.rows(tmp_path / "rho1") if "train/kept" in row]
  assert max(abs(k - 0.5) for k in kept) < 0.01
  frozen = {n.removeprefix("reference."): a for n, a in load_params(
      tmp_path / "rho1" / "checkpoints", frozen=True).frozen.items()}
  assert same({n: np.asarray(a) for n, a in frozen.items()}, params(tmp_path / "reference"))
  assert all(n.startswith("reference.") for n in run.optimizer.frozen)


def test_a_missing_reference_is_refused_before_compiling(folder, tmp_path):
  with pytest.raises(ConfigError, match="no such folder"):
    experiment.build(text(folder, curriculum=dict(name="rho1", reference=str(tmp_path / "none"))))


@pytest.mark.parametrize("model", [pytest.param({}, marks=pytest.mark.slow),
                                   dict(name="decoder", variant="debug", width=16, depth=1, heads=2, kv_heads=1)],
                         ids=["learned positions", "rope"])
def test_to_cut_rows_is_to_mask_their_tail(folder, model):
  run = experiment.build(text(folder, curriculum="none", **({"model": model} if model else {})))
  params, source = jax.jit(run.model.init)(jax.random.key(0)), run.corpus.train
  full = {n: jnp.asarray(a) for n, a in source.take(0, Plan(8, 16)).items()}
  cut = {n: jnp.asarray(a) for n, a in source.take(0, Plan(8, 6, window=16)).items()}
  masked = {**full, "weights": full["weights"] * (jnp.arange(16) < 6)}
  @jax.jit
  @jax.value_and_grad
  def loss(params, batch):
    found = run.objective(run.model.apply, params, batch, None, {})
    return (found.values * found.weights).sum() / found.weights.sum()
  (a, da), (b, db) = (loss(params, batch) for batch in (cut, masked))
  assert float(a) == pytest.approx(float(b), abs=1e-6)
  assert max(float(jnp.abs(x - y).max()) for x, y in zip(jax.tree.leaves(da), jax.tree.leaves(db))) < 1e-6


def test_schedules_come_from_the_config_alone(tmp_path):
  config = text(tmp_path / "no such data", curriculum=[
      dict(name="sequence_length", start=4, until=8), dict(name="competence", until=10),
      dict(name="mixture", stages=[(0, {"web": 1}), (0.5, {"books": 1})]),
      dict(name="knobs", knobs={"mask_ratio": dict(start=0.15, end=0.3)})])
  found = plan.schedules(config)
  assert set(found) == {"learning_rate", "length", "batch", "competence", "mixture/web", "mixture/books", "mask_ratio"}
  assert found["length"]["value"][0] == 4 and found["mixture/books"]["value"][-1] == 1


SHOWN = {  # plug-in -> (its line of config, what of it is seen without data)
    "none": ({}, set()), "batch_size": (dict(start=2), {"batch"}), "competence": ({}, {"competence"}),
    "sequence_length": (dict(start=4), {"length", "batch"}), "knobs": (dict(knobs={"x": dict(start=0, end=1)}), {"x"}),
    "mixture": (dict(stages=[(0, {"web": 1}), (6, {"books": 1})], between="cosine"), {"mixture/web", "mixture/books"}),
    "self_paced": (dict(start=1.0, end=3.0), {"self_paced_threshold"}), "focal": ({}, {"focal_gamma"}),
    "loss_rank": ({}, {"kept_share"}), "rho1": (dict(reference="far/away", start=1.0), {"kept_share"}),
    "rho_loss": (dict(reference="far/away", start=1.0), {"kept_share"}), "doremi": (dict(reference="far/away"), set()),
    "odm": ({}, set()), "exp3s": ({}, set()), "teacher_student": ({}, set())}  # bandits begin without a preference


@pytest.mark.parametrize("name", plugins.available("curriculum"))
def test_every_schedule_is_shown_without_data(name, tmp_path, capsys):
  knobs, seen = SHOWN[name]
  config = text(tmp_path / "no such data", curriculum=dict(name=name, **knobs))
  assert set(plan.schedules(config)) == {"learning_rate"} | seen
  both = text(tmp_path / "no such data", curriculum=[dict(name=name, **knobs), dict(
      name="knobs", knobs={"span_length": dict(start=3, end=1)})])  # and each is one of a list
  assert set(plan.schedules(both)) == {"learning_rate", "span_length"} | seen
  file = tmp_path / "config.py"
  file.write_text(f"def get_config(arg=''):\n  return {config!r}\n")
  plot = [f"--out={tmp_path / 's.svg'}"] if name in ("mixture", "sequence_length") else []  # which takes a second
  with pytest.raises(SystemExit) as stop:
    doors.run(plan.main, plan.define, ["plan", "--schedule", f"--config={file}", *plot])
  assert stop.value.code == 0 and ("s.svg" if plot else "schedules") in capsys.readouterr().out
  assert not plot or (tmp_path / "s.svg").read_text().count("</svg>") == 1


def test_mistakes_name_the_nearest(folder):
  for section, words in ((dict(name="competense"), "competence"), (dict(name="odm", smoothng=1), "smoothing"),
                         (dict(name="competence", scorer="rareness"), "rarity"),
                         (dict(name="competence", pacing="sqroot"), "root")):
    with pytest.raises(ConfigError, match=words):
      experiment.build(text(folder, curriculum=section))
