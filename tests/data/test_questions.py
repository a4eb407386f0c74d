"""Prompts and answers from files: every row whole, each prompt on one side, the fields that policies read."""

import json
import pathlib

import numpy as np
import pytest

from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.types import Plan
from llm_jax.data import questions
from llm_jax.data.corpus import DataContext
from llm_jax.data.problems import FIELDS

ROWS = [{"question": f"What is {i} and {i + 1}?", "final": str(2 * i + 1)} for i in range(60)]
BYTES = dict(name="bytes", special=("eod", "bos", "pad"))


@pytest.fixture
def corpus(tmp_path):
  (tmp_path / "rows.jsonl").write_text("\n".join([*map(json.dumps, ROWS), json.dumps({"question": "no answer"})]))
  def make(**knobs):
    return questions.build(DataContext(0, pathlib.Path(tmp_path)), **dict(
        path=str(tmp_path / "rows.jsonl"), prompt_column="question", answer_column="final", prompt_tokens=24,
        answer_tokens=6, tokenizer=BYTES, validation_fraction=0.2, max_bad_fraction=0.1) | knobs)
  return make


def asked(made, source, steps, batch=8):
  """{(prompt, answer)} of some steps."""
  found = set()
  for step in range(steps):
    rows = source.take(step, Plan(batch, 32))
    for name, n in (("prompt", 0), ("answer", 1)):
      assert (rows[name][:, 0] == 257).all() if n == 0 else (rows[f"{name}_length"] >= 2).all()
    found |= {tuple(made.tokenizer.decode(rows[name][i][:rows[f"{name}_length"][i]]) for name in ("prompt", "answer"))
              for i in range(batch) if rows["weights"][i].sum() > 0}
  return found


def test_every_row_is_asked_on_one_side(corpus):
  made = corpus()
  train, held_out = made.train, made.evals["validation"]
  assert set(train.take(0, Plan(8, 32))) == set(FIELDS)
  a, b = asked(made, train, 12), asked(made, held_out, held_out.batches(8, 32))
  assert a | b == {(r["question"], r["final"]) for r in ROWS} and not a & b and b
  assert "rows.jsonl:61" in made.bad_report.read_text()


def test_a_row_is_prompt_answer_and_end_and_the_answer_is_what_counts(corpus):
  made = corpus()
  rows = made.train.take(0, Plan(8, 32), slice(2, 5))
  np.testing.assert_array_equal(rows["tokens"], made.train.take(0, Plan(8, 32))["tokens"][2:5])
  for i in range(3):
    wanted = rows["targets"][i][rows["weights"][i] > 0].tolist()
    assert wanted == rows["answer"][i][:rows["answer_length"][i]].tolist() and wanted[-1] == 256


def test_long_prompts_keep_their_end_and_long_answers_their_beginning(corpus):
  made = corpus(prompt_tokens=8, answer_tokens=2)
  rows = made.train.take(0, Plan(8, 32))
  texts = [(made.tokenizer.decode(p), made.tokenizer.decode(a)) for p, a in zip(rows["prompt"], rows["answer"])]
  ends = {(r["question"][-7:], r["final"][:1]) for r in ROWS}
  assert set(texts) <= ends and rows["prompt"].shape == (8, 8) and rows["answer"].shape == (8, 2)


@pytest.mark.parametrize("knobs, match", [
    (dict(path="/nowhere"), "path"), (dict(prompt_tokens=1), "prompt_tokens"),
    (dict(tokenizer=dict(name="bytes", special=())), "tokenizer")])
def test_what_cannot_be_is_refused(corpus, knobs, match):
  with pytest.raises(ConfigError, match=match):
    corpus(**knobs)
  with pytest.raises(ConfigError, match=r"train\.length"):
    corpus().train.take(0, Plan(4, 16))


@pytest.mark.parametrize("bad, says", [
    ({"question": ["q"], "final": "1"}, r"'question' is \['q'\], no text"),
    ({"question": "q", "final": {"a": 1}}, r"'final' is {'a': 1}, no text")])
def test_a_list_is_no_prompt_and_no_answer(corpus, tmp_path, bad, says):
  (tmp_path / "other.jsonl").write_text("\n".join(map(json.dumps, [{"question": "2 + 3", "final": 5}, bad])))
  with pytest.raises(DataError, match=rf"other\.jsonl:2: {says}"):
    corpus(path=str(tmp_path / "other.jsonl"), on_bad_data="fail")
