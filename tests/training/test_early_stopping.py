"""Early stopping counts evaluations without improvement; one that is not finite is none, and is soon beaten."""

import math

import pytest

from llm_jax.training.early_stopping import build, carried


def records(values, **knobs):
  rule, record, found = build(**knobs), {}, []
  for step, value in enumerate(values, start=1):
    record = rule.update(record, step, {"eval/loss": value})
    found.append(record)
  return rule, found


@pytest.mark.parametrize("first", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_whatever_is_finite_improves_on_what_is_not(first, mode):
  _, found = records([first, first, 3.0], mode=mode)
  assert found[1]["bad"] == 1 and found[2] == {"best": 3.0, "step": 3, "bad": 0}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_what_is_not_finite_is_no_improvement(value, mode):
  rule, found = records([3.0, value, value], mode=mode, patience=2)
  assert found[-1] == {"best": 3.0, "step": 1, "bad": 2} and rule.exhausted(found[-1])


def test_a_change_must_be_large_enough():
  _, found = records([3.0, 2.95, 2.8], least=0.1)
  assert [r["bad"] for r in found] == [0, 1, 0]


def test_a_resume_that_watches_another_number_starts_to_count():
  record, rule = {"best": 1.0, "step": 3, "bad": 2}, dict(metric="eval/loss", mode="min", patience=2)
  assert carried(record, rule, {**rule, "patience": 9}) == record
  assert carried(record, rule, {**rule, "metric": "eval/accuracy", "mode": "max"}) == carried(record, rule, None) == {}
  assert carried({}, None, rule) == carried({}, None, None) == {}
