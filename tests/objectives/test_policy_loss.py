"""Advantages and the losses of a policy: closed forms, what sums to zero, what has no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.objectives import advantages, policy_loss, ppo
from llm_jax.objectives.policy_loss import Bounds, surrogate

N, T = 6, 5


@pytest.fixture
def rows():
  """Log-probabilities new and old, advantages (N,), mask (N, T) of completions of several lengths."""
  random = np.random.default_rng(0)
  old = -2 * random.random((N, T))
  mask = np.arange(T) < np.array([5, 1, 3, 4, 2, 5])[:, None]
  pack = lambda a: jnp.asarray(a, jnp.float32)
  return pack(old + 0.4 * random.standard_normal((N, T))), pack(old), pack(random.standard_normal(N)), pack(mask)


def slopes(rows, **options):
  """d loss / d log-probabilities, loss being the weighted mean as the train step takes it."""
  new, old, advantage, mask = rows
  def loss(new):
    found = surrogate(new, old, advantage, mask, **options)
    return (found.values * found.weights).sum() / found.weights.sum()
  return jax.grad(loss)(new)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_sum_to_zero_in_a_group(scale):
  rewards = jax.random.normal(jax.random.key(0), (3, 4))
  np.testing.assert_allclose(advantages.group_relative(rewards, scale).sum(1), 0, atol=1e-5)
  np.testing.assert_allclose(advantages.leave_one_out(rewards).sum(1), 0, atol=1e-5)


def test_equal_rewards_teach_nothing():
  for found in (advantages.group_relative(jnp.ones((2, 4))), advantages.leave_one_out(jnp.ones((2, 4)))):
    assert (np.asarray(found) == 0).all()


def test_leave_one_out_compares_with_the_others():
  np.testing.assert_allclose(advantages.leave_one_out(jnp.array([[1.0, 2.0, 6.0]])), [[-3, -1.5, 4.5]])


def test_generalized_advantages_are_sums_of_discounted_errors():
  """Against the double sum; lam = 1 is the return minus the value."""
  random = np.random.default_rng(1)
  r, v = random.standard_normal((2, T)), random.standard_normal((2, T))
  last, gamma, lam = random.standard_normal(2), 0.9, 0.8
  done = np.zeros((2, T))
  done[0, 2] = 1
  nexts = np.concatenate([v[:, 1:], last[:, None]], 1) * (1 - done)
  delta = r + gamma * nexts - v
  want = np.zeros_like(v)
  for n in range(2):
    for t in range(T):
      for k in range(t, T):
        want[n, t] += (gamma * lam) ** (k - t) * delta[n, k]
        if done[n, k]:
          break
  args = [jnp.asarray(a, jnp.float32) for a in (r, v, done, last)]
  np.testing.assert_allclose(advantages.generalized(*args, gamma=gamma, lam=lam), want, rtol=1e-5, atol=1e-6)
  whole = advantages.generalized(*args, gamma=1.0, lam=1.0)
  np.testing.assert_allclose(whole[1] + args[1][1], np.cumsum(r[1][::-1])[::-1] + last[1], rtol=1e-5)


def test_whitening_sees_the_mask_alone():
  x, mask = jax.random.normal(jax.random.key(0), (3, 4)), jnp.arange(4) < jnp.array([[4], [2], [3]])
  found = np.asarray(advantages.whiten(x, mask))[np.asarray(mask)]
  np.testing.assert_allclose([found.mean(), found.std(ddof=1)], [0, 1], atol=1e-5)
  np.testing.assert_array_equal(advantages.whiten(jnp.where(mask, x, 9.0), mask)[mask], found)


@pytest.mark.parametrize("kind", policy_loss.FORMS)
def test_the_first_update_is_reinforce(rows, kind):
  """With old = new every form has the gradient of -A log p under its own weights."""
  new, _, advantage, mask = rows
  weights = surrogate(new, new, advantage, mask, kind=kind).weights
  share = {"dr_grpo": mask / (N * T)}.get(kind, weights / weights.sum())
  got = slopes((new, new, advantage, mask), kind=kind, bounds=Bounds(high=5.0 if kind == "cispo" else 0.2))
  np.testing.assert_allclose(got, -advantage[:, None] * share, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind, level", [("grpo", "token"), ("dapo", "token"), ("dr_grpo", "token"),
                                         ("grpo", "sequence"), ("grpo", "product")])
def test_what_is_clipped_has_no_gradient_and_all_else_has(rows, kind, level):
  options = dict(kind=kind, level=level, bounds=Bounds(0.1, 0.15, 1.3))
  clipped = np.asarray(surrogate(*rows, **options).clipped)
  assert 0 < clipped.mean() < 1
  np.testing.assert_array_equal(np.asarray(slopes(rows, **options)) == 0, (clipped == 1) | (np.asarray(rows[3]) == 0))


def test_forms_without_a_cut_keep_every_gradient(rows):
  for kind in ("cispo", "sapo"):
    np.testing.assert_array_equal(np.asarray(slopes(rows, kind=kind)) == 0, np.asarray(rows[3]) == 0)


def test_what_each_mean_divides_by(rows):
  """The reported loss with all ratios 1 and A = 1 is minus: 1 by completion, 1 by token, the share of room used."""
  new, _, _, mask = rows
  value = lambda kind, **o: (lambda f: float((f.values * f.weights).sum() / f.weights.sum()))(
      surrogate(new, new, jnp.ones(N), mask, kind=kind, **o))
  assert value("grpo") == pytest.approx(-1) and value("bnpo") == pytest.approx(-1)
  assert value("dr_grpo", longest=10) == pytest.approx(-float(mask.sum()) / (N * 10))


def test_a_token_of_the_padding_changes_nothing(rows):
  new, old, advantage, mask = rows
  def value(x, **options):
    found = surrogate(x, old, advantage, mask, **options)
    return (found.values * found.weights).sum()
  for kind in policy_loss.FORMS:
    for level in policy_loss.LEVELS:
      other = jnp.where(mask > 0, new, new - 3.0)
      np.testing.assert_allclose(value(new, kind=kind, level=level), value(other, kind=kind, level=level), rtol=1e-6)


def test_estimators_of_the_divergence():
  """Their means over p: k1 and k3 are the divergence, k2 is near it; k2 and k3 are never negative."""
  p, q = (jax.nn.log_softmax(jax.random.normal(jax.random.key(i), (7,)) * 0.3) for i in (0, 1))
  exact = float((jnp.exp(p) * (p - q)).sum())
  mean = lambda k: float((jnp.exp(p) * k(p, q)).sum())
  assert mean(policy_loss.k1) == pytest.approx(exact, rel=1e-4)
  assert mean(policy_loss.k3) == pytest.approx(exact, rel=1e-4)
  assert mean(policy_loss.k2) == pytest.approx(exact, rel=0.2)
  assert (policy_loss.k2(p, q) >= 0).all() and (policy_loss.k3(p, q) >= 0).all()


def test_values_do_not_gain_by_leaving_their_old_ones():
  old, returns = jnp.zeros(3), jnp.array([1.0, 1.0, 1.0])
  values = jnp.array([0.1, 0.5, 2.0])
  np.testing.assert_allclose(policy_loss.value_losses(values, old, returns, 0.2), [0.405, 0.32, 0.5], rtol=1e-5)
  np.testing.assert_allclose(policy_loss.value_losses(values, old, returns, None), [0.405, 0.125, 0.5], rtol=1e-5)


def test_the_deviation_is_that_of_a_sample():
  rewards = np.random.default_rng(2).standard_normal((3, 4))
  centred = rewards - rewards.mean(1, keepdims=True)
  for scale, spread in (("group", rewards.std(1, ddof=1, keepdims=True)), ("batch", rewards.std(ddof=1)), ("none", 1)):
    got = advantages.group_relative(jnp.asarray(rewards, jnp.float32), scale, epsilon=0.0)
    np.testing.assert_allclose(got, centred / spread, rtol=1e-4)


def test_a_completions_reward_comes_at_its_end_and_the_divergence_at_every_token():
  """With lam = 1 and values of 0 an advantage is what is still to come: the reward, less the divergences from here."""
  mask = jnp.array([[0.0, 1, 1, 1, 0], [0, 1, 0, 0, 0]])
  old, reference = jnp.full((2, 5), -1.0), jnp.full((2, 5), -1.5)
  terms = ppo.build(beta=0.1, reference="w", lam=1.0).terms
  found, returns = ppo.advantages_of(old, reference, jnp.array([2.0, -1.0]), jnp.zeros((2, 5)), mask, terms)
  np.testing.assert_allclose(found, [[0, 1.85, 1.9, 1.95, 0], [0, -1.05, 0, 0, 0]], rtol=1e-5)
  np.testing.assert_allclose(returns, found)
  values = jnp.array([[9.0, 1.0, 2.0, 3.0, 9.0], [9.0, 9.0, 9.0, 9.0, 9.0]]) * mask
  found, returns = ppo.advantages_of(old, reference, jnp.array([2.0, -1.0]), values, mask, terms)
  np.testing.assert_allclose(returns, [[0, 1.85, 1.9, 1.95, 0], [0, -1.05, 0, 0, 0]], rtol=1e-5)
