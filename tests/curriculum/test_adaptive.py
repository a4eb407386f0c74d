"""Curricula that watch the run: published update rules, shares that stay shares, state that survives JSON."""

import json
import math

import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.curriculum import arms, doremi, exp3s, odm, teacher_student

DOMAINS = ("a", "b", "c")
BUILD = {
    "exp3s": lambda **k: exp3s.build(100, 24, 8, **k), "odm": lambda **k: odm.build(100, 24, 8, **k),
    "teacher_student": lambda **k: teacher_student.build(100, 24, 8, **k),
    "doremi": lambda **k: doremi.build(100, 24, 8, reference="none", **k)}


def make(name, **knobs):
  return BUILD[name](**knobs).for_domains(DOMAINS)


def policy(curriculum, state):
  plan = curriculum.plan(0, state)
  return [v for k, v in plan.knobs.items() if k.startswith(("policy/", "alpha/"))]


def metrics(losses, shares=(1 / 3, 1 / 3, 1 / 3), probabilities=(1 / 3, 1 / 3, 1 / 3)):
  found = {}
  for d, loss, share, p in zip(DOMAINS, losses, shares, probabilities):
    found |= {f"share/{d}": share, f"loss_part/{d}": share * loss, f"excess_part/{d}": share * max(loss - 1, 0),
              f"policy/{d}": p}
  return found


@pytest.mark.parametrize("name", BUILD)
def test_weights_stay_shares_under_ten_thousand_adversarial_steps(name):
  curriculum, random = make(name), np.random.default_rng(0)
  state = curriculum.init()
  floor = {"exp3s": 0.05 / 3, "doremi": 1e-3 / 3, "odm": 0.0, "teacher_student": 0.1 / 3}[name]
  for step in range(10_000):
    kind = step % 5
    losses = [1e30, -1e30, 0.0] if kind == 0 else [math.nan] * 3 if kind == 1 else [
        0.0] * 3 if kind == 2 else (random.standard_cauchy(3) * 10.0 ** random.integers(-9, 9)).tolist()
    shares = (1.0, 0.0, 0.0) if kind == 3 else (1 / 3,) * 3
    state = curriculum.observe(state, step, metrics(losses, shares, policy(curriculum, state)
                                                    if name != "doremi" else (1 / 3,) * 3))
    if step % 97 == 0 or step > 9_990:
      state = json.loads(json.dumps(state))
      shares_now = policy(curriculum, state)
      assert len(shares_now) == 3 and sum(shares_now) == pytest.approx(1, abs=1e-9), (step, state)
      assert min(shares_now) >= floor - 1e-12, (step, shares_now)
  assert len(json.dumps(state)) < 20_000


@pytest.mark.parametrize("name", BUILD)
def test_state_is_the_same_after_json(name):
  curriculum, random = make(name), np.random.default_rng(1)
  whole = torn = curriculum.init()
  for step in range(200):
    seen = metrics(random.uniform(1, 5, 3).tolist())
    whole = curriculum.observe(whole, step, seen)
    torn = json.loads(json.dumps(curriculum.observe(json.loads(json.dumps(torn)), step, seen)))
  assert json.dumps(torn) == json.dumps(whole)
  assert curriculum.plan(200, torn) == curriculum.plan(200, whole)


def test_exp3s_is_the_published_update():
  curriculum = make("exp3s", rate=0.1)
  state = {**curriculum.init(), "weights": [0.3, -0.2, 0.1], "updates": 4}
  share = 1 / 6  # alpha_t = 1 / t at t = 6, the fifth update after the one that only starts the clock
  reward = {1: 2.5}
  moved = curriculum.rule.update(state, reward)["weights"]
  w, eta, n = state["weights"], 0.1, 3
  lifted = [math.exp(w[i] + eta * reward.get(i, 0)) for i in range(n)]
  expected = [math.log((1 - share) * lifted[i] + share / (n - 1) * sum(lifted[j] for j in range(n) if j != i))
              for i in range(n)]
  assert np.allclose(np.diff(moved), np.diff(expected), atol=1e-9)  # equal but for a constant, which pi does not see


def test_exp3s_finds_the_domain_that_is_learned():
  curriculum = make("exp3s", rate=0.05, epsilon=0.1)
  state, losses = curriculum.init(), [3.0, 3.0, 3.0]
  for step in range(3000):
    plan = curriculum.plan(step, state)
    shares = [plan.mixture[d] for d in DOMAINS]
    losses[1] -= 1e-3 * shares[1]  # only b is learned
    state = curriculum.observe(state, step, metrics(losses, shares, [plan.knobs[f"policy/{d}"] for d in DOMAINS]))
  assert policy(curriculum, state)[1] > 0.6


def test_odm_is_the_published_update():
  curriculum = make("odm")
  state = curriculum.init()
  assert curriculum.rule.policy(state) == pytest.approx([1 / 3] * 3)
  rewards, k = np.zeros(3), 3
  exploration = lambda t: min(1 / k, math.sqrt(math.log(k) / (k * t))) if t else 1 / k
  for t in range(1, 60):
    pi = curriculum.rule.policy(state)
    losses, shares = [4.0, 2.0, 1.0], [1.0, 0.0, 0.0] if t % 2 else [0.0, 0.5, 0.5]
    state = curriculum.observe(state, t, metrics(losses, shares, pi))
    for i in range(3):
      if shares[i]:
        rewards[i] = 0.9 * rewards[i] + 0.1 * losses[i] / pi[i]
    raised = np.exp(exploration(t - 1) * rewards)
    expected = (1 - k * exploration(t)) * raised / raised.sum() + exploration(t)
    assert curriculum.rule.policy(state) == pytest.approx(expected.tolist(), abs=1e-12)


def test_doremi_is_the_published_update_and_its_result_the_average():
  curriculum = make("doremi", rate=1.0, smoothing=1e-3)
  state, alpha, seen = curriculum.init(), np.full(3, 1 / 3), []
  for step, losses in enumerate(np.random.default_rng(0).uniform(0, 3, (50, 3))):
    state = curriculum.observe(state, step, metrics(losses.tolist()))
    alpha = alpha * np.exp(np.maximum(losses - 1, 0))
    alpha = (1 - 1e-3) * alpha / alpha.sum() + 1e-3 / 3
    seen.append(alpha)
  result = curriculum.result(state)
  assert list(result["mixture"].values()) == pytest.approx(np.mean(seen, axis=0).tolist(), abs=1e-9)
  assert list(result["last"].values()) == pytest.approx(alpha.tolist(), abs=1e-9)
  assert curriculum.plan(50, state).mixture == dict.fromkeys(DOMAINS, 1 / 3)  # losses are weighted, rows are not


def test_teacher_student_follows_the_slope_whatever_its_sign():
  curriculum = make("teacher_student", epsilon=0.1, window=5)
  state = curriculum.init()
  for step in range(20):
    state = curriculum.observe(state, step, metrics([3.0, 3.0 - 0.1 * step, 1.0 + 0.2 * step]))
  flat, falling, rising = policy(curriculum, state)
  assert flat == pytest.approx(0.1 / 3) and rising == pytest.approx(2 * (falling - 0.1 / 3) + 0.1 / 3)


def test_draws_are_the_same_on_every_host_and_follow_the_policy():
  counts = np.zeros(3)
  for step in range(2000):
    assert arms.draw([0.5, 0.3, 0.2], 4, 0, step) == arms.draw([0.5, 0.3, 0.2], 4, 0, step)
    counts += arms.draw([0.5, 0.3, 0.2], 4, 0, step)
  assert np.abs(counts / 8000 - [0.5, 0.3, 0.2]).max() < 0.02


def test_one_domain_is_refused():
  with pytest.raises(ConfigError, match="at least two domains"):
    BUILD["odm"]().for_domains(("text",))
