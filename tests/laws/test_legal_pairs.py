"""Models and objectives: the README's table is the code's, every legal pair trains, every other is refused with the
reason."""

import itertools
import pathlib

import pytest

from llm_jax import doors, experiment, pairs
from llm_jax.core.errors import ConfigError
from llm_jax.run import Run

TEXT = pathlib.Path(__file__).resolve().parents[2] / "llm_jax/data/fallback/king_james_bible.txt"
PLAIN = {"name": "text_folder", "path": str(TEXT), "domains": "one", "tokenizer": {"name": "bytes", "sentinels": 40}}
TEXT_FIELDS = {"tokens", "targets", "weights"}
LEGAL = list(pairs.legal())
name_of = lambda pair: f"{pair[0]['name']}-{pair[1]['name']}"
OVER_TEXT = [p for p in LEGAL if {f for _, o in pairs.objectives()[p[1]["name"]] for f in o.fields} <= TEXT_FIELDS
             and not any(o.reference for _, o in pairs.objectives()[p[1]["name"]])]  # a teacher's workdir
EACH = list({o["name"]: (m, o) for m, o in reversed(OVER_TEXT)}.values())


def run_of(model: dict, objective: dict) -> Run:
  return experiment.build({
      "model": model, "objective": objective, "data": PLAIN, "optimizer": {"name": "adamw", "peak": 1e-3},
      "train": {"steps": 2, "batch_size": 8, "length": pairs.LENGTH}, "mesh": {"data": -1}})


def test_the_readme_has_the_codes_table():
  text = pairs.README.read_text("utf-8")
  assert pairs.written(text) == text, "python -m llm_jax.pairs --readme"


def test_what_must_be_legal_is():
  found = {(m["name"], o["name"]) for m, o in LEGAL}
  assert {("gpt", "causal_lm"), ("decoder", "fill_in_the_middle"), ("bert", "masked_lm"), ("bert", "bert_pretraining"),
          ("mlp", "regression")} <= found
  assert not {("gpt", "masked_lm"), ("bert", "causal_lm"), ("mlp", "causal_lm")} & found


def traced(pair) -> None:
  run = run_of(*pair)
  assert {"loss", "gradient_norm", "target_tokens"} <= set(run.metric_names)
  assert "eval/loss" in run.evaluation_names


@pytest.mark.parametrize("pair", EACH, ids=name_of)
def test_every_objective_makes_a_step_for_a_model(pair):
  """Traced, not compiled: the arrays of model, objective and data fit each other."""
  traced(pair)


@pytest.mark.slow
@pytest.mark.parametrize("pair", [p for p in OVER_TEXT if p not in EACH], ids=name_of)
def test_every_legal_pair_makes_a_step(pair):
  traced(pair)


def test_every_other_pair_is_refused_with_the_reason():
  legal = {(m["name"], o["name"]) for m, o in LEGAL}
  reason = r"config\.objective: .* needs a model that offers '\w+' \(.*\); '.*' offers"
  refused = 0
  for (model, heads), (objective, forms) in itertools.product(pairs.models().items(), pairs.objectives().items()):
    if heads and (model, objective) not in legal and refused < 12:
      with pytest.raises(ConfigError, match=reason):
        run_of(heads[0][0], forms[0][0])
      refused += 1
  assert refused == 12


def test_a_misspelt_flag_prints_no_table(capsys):
  with pytest.raises(SystemExit) as stop:
    doors.run(pairs.main, pairs.define, ["pairs", "--readm"])
  said = capsys.readouterr()
  assert stop.value.code == 2 and not said.out and "did you mean: --readme" in said.err
