"""Objectives in whole runs: the same losses on any mesh, evaluations that repeat, a teacher from its workdir."""

import math
import pathlib

import jax
import numpy as np
import pytest

from llm_jax import experiment, hub
from llm_jax.core.errors import ConfigError
from llm_jax.models import bert
from llm_jax.training.session import Session
from llm_jax.training.step import knobs_of

TEXT = pathlib.Path(__file__).resolve().parents[2] / "llm_jax/data/fallback/king_james_bible.txt"
BERT = dict(name="bert", variant="debug", width=32, heads=2, hidden=64, depth=1)
GPT = dict(name="gpt", variant="debug", width=32, heads=2, depth=1)
CASES = {
    "bert_pretraining": (BERT | dict(head="pretraining"), dict(name="bert_pretraining", unit="word")),
    "mix": (BERT | dict(head="pretraining"), dict(name="mix", parts=[
        dict(name="masked_lm", unit="span", weight=1.0), dict(name="sentence_order", weight=0.5)])),
    "replaced_token": (dict(name="electra", variant="debug", width=32, heads=4, hidden=64, depth=1, embed_width=16),
                       dict(name="replaced_token")),
    "span_corruption": (dict(name="t5", variant="debug"), dict(name="span_corruption")),
    "prefix_lm": (GPT, dict(name="prefix_lm")),
    "unlikelihood": (GPT, dict(name="unlikelihood", chunk=64)),
    "simcse": (BERT | dict(head="lm", dropout=0.1), dict(name="simcse")),
}


def config(model: dict, objective: dict, **changes) -> dict:
  return {
      "model": model, "objective": objective, "optimizer": {"name": "adamw", "peak": 1e-3},
      "data": {"name": "text_folder", "path": str(TEXT), "domains": "one",
               "tokenizer": {"name": "bytes", "sentinels": 40}},
      "train": {"steps": 4, "batch_size": 8, "length": 48, "accumulate": changes.pop("accumulate", 1)},
      "evaluation": {"batches": 2}, "log": {"tensorboard": False, "report": False}, **changes}


def first_steps(run: experiment.Run, count: int = 2) -> list[dict[str, float]]:
  state, rows = run.init_state(), []
  for step in range(count):
    plan = run.curriculum.plan(step, run.curriculum.init())
    state, vector = run.compiled_step(state, run.batch(step), knobs_of(plan))
    rows.append(dict(zip(run.metric_names, np.asarray(vector).tolist(), strict=True)))
  return rows


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_one_device_and_a_mesh_have_the_same_losses(name, monkeypatch):
  with monkeypatch.context() as patch:
    first = jax.devices()[:1]
    patch.setattr(jax, "devices", lambda *_: first)
    alone = first_steps(experiment.build(config(*CASES[name])))
  spread = first_steps(experiment.build(config(*CASES[name], mesh=dict(data=2, fsdp=2, tensor=2))))
  for a, b in zip(alone, spread):
    np.testing.assert_allclose([a[k] for k in a], [b[k] for k in a], rtol=2e-4, atol=2e-5)


def test_an_evaluation_repeats_and_says_no_bits_per_byte():
  run = experiment.build(config(*CASES["bert_pretraining"], mesh=dict(data=-1)))
  state = run.init_state()
  a, b = (run.evaluate(state.params, state.frozen) for _ in range(2))
  assert a == b and {"eval/loss", "eval/masked_lm_accuracy", "eval/next_sentence_loss"} <= a.keys()
  assert "eval/bits_per_byte" not in a and run.bits_per_byte() is None


def test_perplexity_is_of_the_data_whatever_the_objective_adds():
  run = experiment.build(config(GPT, dict(name="causal_lm", label_smoothing=0.2, z_loss=1e-2), mesh=dict(data=-1)))
  state = run.init_state()
  found = run.evaluate(state.params, state.frozen)
  assert found["eval/loss"] > found["eval/nll"] + 1e-3
  assert found["eval/perplexity"] == pytest.approx(math.exp(found["eval/nll"]))
  assert found["eval/bits_per_byte"] == pytest.approx(
      found["eval/nll"] / math.log(2) / run.corpus.evals["validation"].bytes_per_token)


@pytest.mark.slow
@pytest.mark.parametrize("model, first, then, losses", [
    (BERT, "masked_lm", "distillation", {"masked_lm_loss", "soft_loss", "cosine_loss"}),
    (GPT, "causal_lm", "causal_distillation", {"hard_loss", "soft_loss"})], ids=["bert", "gpt"])
def test_a_student_learns_from_a_teachers_workdir(model, first, then, losses, tmp_path):
  teacher = config(model, dict(name=first), train=dict(steps=1, batch_size=8, length=48), mesh=dict(data=-1))
  Session(experiment.build(teacher), tmp_path / "teacher", lambda state: [], lambda length: 0.0).train()
  objective = dict(name=then, teacher=str(tmp_path / "teacher"))
  run = experiment.build(config(model | dict(depth=2), objective, mesh=dict(data=-1)))
  rows = first_steps(run)
  assert losses <= rows[0].keys()
  assert rows[1]["soft_loss"] < rows[0]["soft_loss"]
  assert not [n for n in run.init_state().params if n.startswith("reference.")]


def test_a_student_learns_from_a_folder_of_hugging_face(tmp_path):
  """Whose embedding table is padded beyond the vocabulary."""
  letters = [chr(c) for c in range(33, 127)]
  words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
  teacher = bert.build(len(words) + 12, 48, **{k: v for k, v in BERT.items() if k != "name"})
  hub.save(tmp_path, teacher, teacher.init(jax.random.key(0)))
  (tmp_path / "vocab.txt").write_text("\n".join(words))
  made = config(BERT, dict(name="distillation", teacher=str(tmp_path)), mesh=dict(data=-1))
  with pytest.raises(ConfigError, match=r"config\.objective\.teacher: .* another tokenizer"):
    experiment.build(made)
  made["data"]["tokenizer"] = dict(name="hub", path=str(tmp_path))
  run = experiment.build(made)
  assert {"masked_lm_loss", "soft_loss", "cosine_loss"} <= set(run.metric_names)
