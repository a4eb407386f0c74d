"""Plans: pure functions of (step, state), finitely many shapes, several curricula as one."""

import functools
import json
import pickle

import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Plan
from llm_jax.curriculum import batch_size, competence, knobs, mixture, none, sequence_length
from llm_jax.curriculum.composed import compose

STEPS, BATCH, LENGTH = 1000, 32, 256
LENGTHS = [
    dict(), dict(start=8, buckets=64, keep="batch"), dict(start=16, buckets=[16, 64]),
    dict(start=32, pacing={"name": "fixed_root", "p": 2, "multiple": 7}), dict(until=3000),
    dict(pacing="sqrt", mode="truncate"), dict(keep="batch", pacing="cosine"),
    dict(pacing=[(0, 64), (0.5, 128), (900, 256)]),
    dict(start=64, pacing={"name": "increments", "interval": 50, "increment": 64}, until=1.0),
    dict(start=256), dict(until=1.0, pacing="exponential")]
OTHERS = [lambda: batch_size.build(STEPS, BATCH, LENGTH),
          lambda: batch_size.build(STEPS, BATCH, LENGTH, start=5, multiple=3),
          lambda: none.build(STEPS, BATCH, LENGTH), lambda: competence.build(STEPS, BATCH, LENGTH),
          lambda: knobs.build(STEPS, BATCH, LENGTH, knobs={"mask_ratio": dict(start=0.15, end=0.3)}),
          lambda: mixture.build(STEPS, BATCH, LENGTH, stages=[(0, {"a": 1, "b": 3}), (0.9, {"b": 1})])]


def both():
  return compose([sequence_length.build(STEPS, BATCH, LENGTH), competence.build(STEPS, BATCH, LENGTH)], BATCH, LENGTH)


MAKE = [functools.partial(sequence_length.build, STEPS, BATCH, LENGTH, **k) for k in LENGTHS] + OTHERS + [both]


@pytest.mark.parametrize("make", MAKE)
def test_shapes_are_those_of_the_steps_and_no_others(make):
  curriculum = make()
  state = curriculum.init()
  visited = {(p.batch, p.length) for p in (curriculum.plan(step, state) for step in range(STEPS))}
  assert visited == curriculum.shapes()
  changes = curriculum.changes()
  for step in range(1, STEPS):
    before, after = curriculum.plan(step - 1, state), curriculum.plan(step, state)
    if (before.batch, before.length) != (after.batch, after.length):
      assert step in changes


@pytest.mark.parametrize("make", MAKE)
def test_a_plan_depends_on_the_step_alone_and_crosses_processes(make):
  curriculum = make()
  plan = functools.partial(curriculum.plan, state=curriculum.init())
  forward = [plan(step) for step in range(0, STEPS, 37)]
  assert [plan(step) for step in reversed(range(0, STEPS, 37))] == forward[::-1]
  moved = pickle.loads(pickle.dumps(plan))  # noqa: S301, our own bytes
  assert [moved(step) for step in range(0, STEPS, 37)] == forward
  assert json.loads(json.dumps(curriculum.init())) == curriculum.init()


def test_length_keeps_tokens_or_batch_and_ends_at_the_full_row():
  tokens = sequence_length.build(STEPS, BATCH, LENGTH, start=16)
  plans = [tokens.plan(step, {}) for step in range(STEPS)]
  assert {p.batch * p.length for p in plans} == {BATCH * LENGTH} and plans[0].length == 16
  assert plans[300] == plans[-1] == Plan(BATCH, LENGTH)
  assert plans[299].length < LENGTH and (np.diff([p.length for p in plans]) >= 0).all()
  cut = sequence_length.build(STEPS, BATCH, LENGTH, start=16, mode="truncate")
  assert cut.plan(0, {}) == Plan(BATCH, 16, window=LENGTH) and cut.plan(999, {}) == Plan(BATCH, LENGTH)


def test_mixture_jumps_at_its_step_and_anneals_between():
  jump = mixture.build(STEPS, BATCH, LENGTH, stages=[(0, {"web": 1}), (0.9, {"web": 1, "books": 1})])
  assert [jump.plan(s, {}).mixture for s in (0, 899, 900, 999)] == [{"books": 0, "web": 1}] * 2 + [
      {"books": 0.5, "web": 0.5}] * 2
  smooth = mixture.build(STEPS, BATCH, LENGTH, between="linear", hold=10,
                         stages=[(0, {"web": 1}), (500, {"web": 1}), (900, {"books": 1})])
  books = [smooth.plan(s, {}).mixture["books"] for s in range(STEPS)]
  assert books[500] == 0 and books[700] == pytest.approx(0.5) and set(books[900:]) == {1.0}
  assert (np.diff(books) >= 0).all() and books[710] == books[719] != books[720]
  assert all(sum(smooth.plan(s, {}).mixture.values()) == pytest.approx(1) for s in range(STEPS))


def test_whole_knobs_are_whole():
  curriculum = knobs.build(STEPS, BATCH, LENGTH, knobs={"n_dims": dict(start=5, end=20, whole=True)}, until=1.0)
  values = [curriculum.plan(s, {}).knobs["n_dims"] for s in range(STEPS)]
  assert values[0] == 5 and set(values) <= set(map(float, range(5, 21))) and (np.diff(values) >= 0).all()


def test_composed_takes_each_field_from_its_owner():
  plan = both().plan(100, both().init())
  assert plan.length < LENGTH and 0 < plan.admit < 1
  with pytest.raises(ConfigError, match=r"decides batch, as config.curriculum\[0\]"):
    compose([sequence_length.build(STEPS, BATCH, LENGTH), batch_size.build(STEPS, BATCH, LENGTH)], BATCH, LENGTH)
  same = knobs.build(STEPS, BATCH, LENGTH, knobs={"x": dict(start=0, end=1)})
  with pytest.raises(ConfigError, match="knob 'x'"):
    compose([same, same], BATCH, LENGTH)


@pytest.mark.parametrize("build, words", [
    (lambda: sequence_length.build(STEPS, BATCH, LENGTH, start=300), "300 tokens in a run of 256"),
    (lambda: sequence_length.build(STEPS, BATCH, LENGTH, buckets=[100]), "no whole number of rows of 100"),
    (lambda: batch_size.build(STEPS, BATCH, LENGTH, start=64), "64 examples in a run of 32"),
    (lambda: mixture.build(STEPS, BATCH, LENGTH, stages=[(0, {"a": -1})]), "weights"),
    (lambda: knobs.build(STEPS, BATCH, LENGTH, knobs={"m": dict(start=1, ned=2)}), "start"),
    (lambda: competence.build(STEPS, BATCH, LENGTH, c0=0.0), "c0")])
def test_what_cannot_be_is_refused(build, words):
  with pytest.raises(ConfigError, match=words):
    build()
