"""Generated problems: right answers, rows that are functions of (seed, step), a held-out side of their own."""

import dataclasses
import pathlib

import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.core.row_parts import COMPLETION, PROMPT
from llm_jax.core.types import Plan
from llm_jax.data import problem_pairs, problems
from llm_jax.data.corpus import DataContext

PLAN = Plan(16, 24)
RIGHT = {"addition": lambda p: sum(map(int, p[:-1].split("+"))), "multiplication": lambda p: np.prod(list(map(
    int, p[:-1].split("*")))), "copy": lambda p: p[5:-1], "reverse": lambda p: p[8:-1][::-1],
    "sort": lambda p: "".join(sorted(p[5:-1]))}


def corpus(tmp_path, seed=0, **knobs):
  return problems.build(DataContext(seed, pathlib.Path(tmp_path)), **knobs)


def texts(made, batch):
  """[(prompt, answer)] of a batch."""
  read = lambda name: [made.tokenizer.decode(ids[:n]) for ids, n in zip(batch[name], batch[f"{name}_length"])]
  return list(zip(read("prompt"), read("answer")))


@pytest.mark.parametrize("task", problems.TASKS)
def test_answers_are_right_and_rows_hold_them(tmp_path, task):
  made = corpus(tmp_path, task=task, digits=3)
  for source in (made.train, made.evals["validation"]):
    batch = source.take(1, PLAN)
    assert set(batch) == set(source.fields)
    for i, (prompt, answer) in enumerate(texts(made, batch)):
      assert answer == str(RIGHT[task](prompt))
      assert made.tokenizer.decode(batch["tokens"][i][batch["segment_ids"][i] > 0]) == prompt + answer
      asked = batch["targets"][i][batch["weights"][i] > 0]
      assert asked.tolist() == batch["answer"][i][:batch["answer_length"][i]].tolist()
      assert asked[-1] == made.tokenizer.end_of_document
    assert batch["prompt"].shape[1] + batch["answer"].shape[1] <= 24
    widest = problems.LONGEST[task](3)
    assert (batch["prompt_length"].max(), batch["answer_length"].max()) <= (widest[0], widest[1] + 1)


def test_a_batch_is_a_function_of_seed_and_step(tmp_path):
  train = corpus(tmp_path).train
  whole = train.take(3, PLAN)
  for name, part in train.take(3, PLAN, slice(4, 9)).items():
    np.testing.assert_array_equal(part, whole[name][4:9])
  assert not np.array_equal(whole["tokens"], train.take(4, PLAN)["tokens"])
  assert not np.array_equal(whole["tokens"], corpus(tmp_path, seed=1).train.take(3, PLAN)["tokens"])
  longer = train.take(3, dataclasses.replace(PLAN, length=30))
  np.testing.assert_array_equal(longer["prompt"], whole["prompt"])


def test_no_held_out_problem_is_trained_on(tmp_path):
  made = corpus(tmp_path, digits=1, held_out=0.3, eval_rows=200)
  ask = lambda source, steps: {p for s in range(steps) for p, _ in texts(made, source.take(s, PLAN))}
  trained, held_out = ask(made.train, 40), ask(made.evals["validation"], 13)
  assert len(trained) > 50 and len(held_out) > 15 and not trained & held_out
  last = made.evals["validation"].take(12, PLAN)
  assert ((last["weights"].sum(1) > 0) == (np.arange(16) < 200 - 12 * 16)).all()


@pytest.mark.parametrize("task", problems.TASKS)
def test_pairs_are_of_the_right_answer_and_a_wrong_one(tmp_path, task):
  """Over the problems that a policy is asked, on either side; both rows read as one text with its end."""
  made, asked = (room.build(DataContext(0, tmp_path), task=task, digits=3) for room in (problem_pairs, problems))
  assert made.tokenizer.fingerprint == asked.tokenizer.fingerprint and made.fingerprint != asked.fingerprint
  for pairs, source in ((made.train, asked.train), (made.evals["validation"], asked.evals["validation"])):
    batch, want = pairs.take(1, PLAN), texts(asked, source.take(1, PLAN))
    assert set(batch) == set(pairs.fields)
    for name, right in (("chosen", True), ("rejected", False)):
      for ids, parts, (prompt, answer) in zip(batch[name], batch[f"{name}_parts"], want):
        completion = ids[parts == COMPLETION]
        assert made.tokenizer.decode(ids[parts == PROMPT]) == prompt
        assert (made.tokenizer.decode(completion) == answer) is right
        assert completion[-1] == made.tokenizer.end_of_document
        assert (np.diff(parts[parts > 0]) >= 0).all() and (parts > 0)[:(parts > 0).sum()].all()


def test_a_batch_of_pairs_is_a_function_of_seed_and_step(tmp_path):
  made = problem_pairs.build(DataContext(0, tmp_path), digits=1, held_out=0.3, eval_rows=20)
  whole = made.train.take(3, PLAN)
  for name, part in made.train.take(3, PLAN, slice(4, 9)).items():
    np.testing.assert_array_equal(part, whole[name][4:9])
  assert made.evals["validation"].take(1, PLAN)["weights"].tolist() == [1.0] * 4 + [0.0] * 12
  with pytest.raises(ConfigError, match=r"train\.length"):
    made.train.take(0, Plan(2, 6))


@pytest.mark.parametrize("knobs, match", [
    (dict(digits=0), "digits"), (dict(held_out=0.0), "held_out"), (dict(digits=1, held_out=1e-6), "held_out"),
    (dict(tokenizer=dict(name="characters")), "tokenizer")])
def test_what_cannot_be_is_refused(tmp_path, knobs, match):
  with pytest.raises(ConfigError, match=match):
    corpus(tmp_path, **knobs)


def test_rows_that_are_too_short_are_refused(tmp_path):
  with pytest.raises(ConfigError, match=r"train\.length"):
    corpus(tmp_path).train.take(0, Plan(2, 8))
