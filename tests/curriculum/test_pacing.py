"""Pacing functions against the published formulas, written here as they stand in the sources."""

import math

import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.curriculum import pacing

STEPS = 1000
T = 300


def build(spec, start=0.01, end=1.0, until=T):
  return pacing.build(spec, start=start, end=end, until=until, steps=STEPS, key="config.curriculum.pacing")


def platanios(t, c0, p):
  return min(1.0, (t * (1 - c0**p) / T + c0**p) ** (1 / p))


@pytest.mark.parametrize("spec, p", [("linear", 1), ("sqrt", 2), ({"name": "root", "p": 3}, 3),
                                     ({"name": "root", "p": 10}, 10)])
@pytest.mark.parametrize("c0", [0.01, 0.3])
def test_competence_is_platanios(spec, p, c0):
  c = build(spec, start=c0)
  for t in range(0, STEPS, 7):
    assert c(t) == pytest.approx(platanios(t, c0, p), abs=1e-6)


WU = {
    "exponential": lambda x, b: b + (1 - b) * (math.exp(10 * x) - 1) / (math.exp(10) - 1),
    "logarithmic": lambda x, b: b + (1 - b) * (1 + 0.1 * math.log(x + math.exp(-10))),
    "step": lambda x, b: b + math.floor(x),
}


@pytest.mark.parametrize("name", WU)
def test_shapes_of_wu(name):
  b = 0.2
  c = build(name, start=b)
  for t in range(0, T + 1, 3):
    assert c(t) == pytest.approx(min(1.0, max(b, WU[name](t / T, b))), abs=1e-6)
  assert c(T) == pytest.approx(1, abs=1e-5) and c(10 * T) == c(T)


@pytest.mark.parametrize("p", [0.5, 1, 2])
def test_polynomial_of_wu(p):
  c = build({"name": "polynomial", "p": p}, start=0.2)
  for t in range(0, T, 3):
    assert c(t) == pytest.approx(0.2 + 0.8 * (t / T) ** p, abs=1e-6)


def deepspeed_root(t, total, least, most, step, degree):
  """deepspeed/runtime/data_pipeline/curriculum_scheduler.py, fixed_root."""
  difficulty = (float(t) / total) ** (1.0 / degree)
  difficulty = math.floor(difficulty * (most - least) + least)
  difficulty -= difficulty % step
  return min(difficulty, most)


@pytest.mark.parametrize("spec, degree", [("fixed_linear", 1), ({"name": "fixed_root", "p": 2}, 2),
                                          ({"name": "fixed_root", "p": 3}, 3)])
@pytest.mark.parametrize("least, most, step", [(8, 1024, 8), (8, 1024, 64), (100, 1000, 64), (64, 100, 7)])
def test_fixed_root_is_deepspeeds_but_never_below_the_least(spec, degree, least, most, step):
  spec = {"name": spec} if isinstance(spec, str) else spec
  d = build({**spec, "multiple": step}, start=least, end=most)
  for t in range(0, 3 * T):
    assert d(t) == pytest.approx(max(least, deepspeed_root(t, T, least, most, step, degree)), abs=1e-6)


def test_fixed_discrete_is_deepspeeds():
  difficulty, max_step = [1, 2, 3], [5, 10]
  def published(t):
    if t > max_step[-1]:
      return difficulty[-1]
    return next(d for d, m in zip(difficulty, max_step) if t <= m)
  d = build({"name": "fixed_discrete", "stages": [(5, 1), (10, 2), (11, 3)]}, start=1, end=3)
  assert [d(t) for t in range(20)] == [published(t) for t in range(20)]


def test_increments_are_gargs():
  def published(t, start=5, end=20, inc=1, interval=2000):
    value = start
    for step in range(1, t + 1):  # the source updates a counter after every step
      value += inc if step % interval == 0 else 0
    return min(value, end)
  v = build({"name": "increments", "interval": 2000, "increment": 1}, start=5, end=20)
  assert [v(t) for t in (0, 1999, 2000, 2001, 3999, 4000, 29_999, 30_000, 50_000)] == [
      published(t) for t in (0, 1999, 2000, 2001, 3999, 4000, 29_999, 30_000, 50_000)]


def test_stages_begin_at_their_step():
  v = build([(0, 32), (1000, 64), (5000, 128)], start=32, end=128)
  assert [v(t) for t in (0, 999, 1000, 1001, 4999, 5000, 10**6)] == [32, 32, 64, 64, 64, 128, 128]


SPECS = ["linear", "sqrt", "exponential", "logarithmic", "step", "polynomial", "cosine", "fixed_linear", "fixed_root",
         {"name": "increments", "interval": 10, "increment": 3}]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("start, end", [(8, 100), (8, 8)])
def test_clamped_monotone_and_independent_of_call_order(spec, start, end):
  v = build(spec, start=start, end=end)
  values = v(np.arange(STEPS))
  assert values.min() >= start and values.max() <= end
  assert (np.diff(values) >= 0).all() and values[-1] == pytest.approx(end, abs=1e-3)
  some = np.random.default_rng(0).permutation(STEPS)[:50]
  assert [v(int(t)) for t in some] == values[some].tolist()


@pytest.mark.parametrize("spec", ["linear", "cosine", "polynomial", "exponential", "sqrt"])
def test_a_quantity_may_fall(spec):
  values = build(spec, start=0.3, end=0.15)(np.arange(STEPS))
  assert values[0] == pytest.approx(0.3) and values[-1] == pytest.approx(0.15) and (np.diff(values) <= 1e-12).all()


def test_until_is_a_fraction_or_steps():
  assert build("linear", until=0.3).until == 300 and build("linear", until=250).until == 250
  assert build("linear", until=1.0).until == STEPS


@pytest.mark.parametrize("spec, words", [
    ("sqr", "sqrt"), ({"name": "root", "power": 2}, "p"), ({"name": "root", "p": 0}, "above 0"), ("stages", "stages"),
    ([(5, 1), (3, 2)], "rising"), ({"name": "increments", "increment": 1}, "interval")])
def test_mistakes_are_named(spec, words):
  with pytest.raises(ConfigError, match=words):
    build(spec)


@pytest.mark.parametrize("spec, knobs, key", [
    ([(0, "a"), (10, 1.0)], {}, "stages: got 'a'"), ([(0, math.nan)], {}, "stages: got nan"),
    ("linear", dict(start="x"), "curriculum.start: got 'x'"), ("linear", dict(end=None), "curriculum.end: got None"),
    ("linear", dict(until="soon"), "curriculum.until: got 'soon'"), ("linear", dict(until=math.inf), "until: got inf")])
def test_what_is_no_number_is_refused(spec, knobs, key):
  with pytest.raises(ConfigError, match=key):
    build(spec, **knobs)
