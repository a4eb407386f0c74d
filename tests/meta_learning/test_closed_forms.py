"""On quadratic losses every meta-gradient is known: the learners agree with the formulas to 1e-6."""

import jax
import numpy as np
import optax
import pytest
from quadratic import SIZE, context, loss_fn, tasks

from llm_jax.meta_learning import anil, fomaml, imaml, maml, meta_sgd, reptile

LR, STEPS, TASKS = 0.1, 3, 4


def run(learner, params, batch):
  with jax.enable_x64(True):
    params = {n: jax.numpy.asarray(p, "float64") for n, p in params.items()}
    loss, grads = jax.jit(learner(loss_fn, 0))(params, batch, jax.random.key(0))
    return float(loss.total), {n: np.asarray(g) for n, g in grads.items()}


def powers(A):
  shrink = np.eye(SIZE) - LR * A
  return np.stack([np.linalg.matrix_power(s, STEPS) for s in shrink])


@pytest.fixture(scope="module")
def family():
  theta = np.random.default_rng(7).normal(size=SIZE)
  batch, A, c_s, c_q = tasks(TASKS)
  adapted = c_s + np.einsum("tij,tj->ti", powers(A), theta - c_s)
  return theta, batch, A, c_s, c_q, adapted


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("mixed_mode", [False, True])
def test_maml_gradient_has_the_factor_of_every_inner_step(family, remat, mixed_mode):
  theta, batch, A, _, c_q, adapted = family
  learner = maml.build(context(), inner_steps=STEPS, inner_lr=LR, remat=remat, mixed_mode=mixed_mode)
  total, grads = run(learner, {"theta": theta}, batch)
  want = np.einsum("tij,tjk,tk->i", powers(A), A, adapted - c_q)
  np.testing.assert_allclose(grads["theta"], want, rtol=1e-6)
  off = adapted - c_q
  np.testing.assert_allclose(total, 0.5 * np.einsum("ti,tij,tj->", off, A, off), rtol=1e-6)


def test_first_order_maml_is_the_query_gradient_where_it_arrives(family):
  theta, batch, A, _, c_q, adapted = family
  _, grads = run(fomaml.build(context(), inner_steps=STEPS, inner_lr=LR), {"theta": theta}, batch)
  np.testing.assert_allclose(grads["theta"], np.einsum("tij,tj->i", A, adapted - c_q), rtol=1e-6)


def test_reptile_returns_the_way_back(family):
  theta, batch, A, c_s, _, _ = family
  _, grads = run(reptile.build(context(), inner_steps=STEPS, inner_lr=LR), {"theta": theta}, batch)
  want = -np.einsum("tij,tj->i", np.eye(SIZE) - powers(A), c_s - theta)
  np.testing.assert_allclose(grads["theta"], want, rtol=1e-6)


@pytest.mark.parametrize("lam", [0.5, 2.0])
def test_implicit_maml_solves_the_linear_system(family, lam):
  theta, batch, A, c_s, c_q, _ = family
  learner = imaml.build(context(), inner_steps=800, inner_lr=0.15, lam=lam, cg_steps=SIZE)
  _, grads = run(learner, {"theta": theta}, batch)
  eye = np.eye(SIZE)
  want = np.zeros(SIZE)
  for a, s, q in zip(A, c_s, c_q):
    solution = np.linalg.solve(a + lam * eye, a @ s + lam * theta)
    want += np.linalg.solve(eye + a / lam, a @ (solution - q))
  np.testing.assert_allclose(grads["theta"], want, rtol=1e-6)


def test_meta_sgd_differentiates_the_rates(family):
  theta, batch, A, c_s, c_q, _ = family
  learner = meta_sgd.build(context(), inner_steps=1, inner_lr=LR)
  rates = np.linspace(0.05, 0.2, SIZE)
  _, grads = run(learner, {"theta": theta, "meta.theta.rate": rates}, batch)
  inner = np.einsum("tij,tj->ti", A, theta - c_s)
  outer = np.einsum("tij,tj->ti", A, theta - rates * inner - c_q)
  np.testing.assert_allclose(grads["meta.theta.rate"], -(inner * outer).sum(0), rtol=1e-6)
  np.testing.assert_allclose(grads["theta"], (outer - np.einsum("tij,tj->ti", A, rates * outer)).sum(0), rtol=1e-6)


@pytest.mark.parametrize("mixed_mode", [False, True])
def test_inner_adam_is_adam_and_is_differentiated_through(family, mixed_mode):
  theta, batch, A, c_s, c_q, _ = family
  adam = optax.scale_by_adam(eps=0.0, eps_root=1e-16)
  def outer(theta):
    total = 0.0
    for a, s, q in zip(A, c_s, c_q):
      fast, state = theta, adam.init(theta)
      for _ in range(STEPS):
        direction, state = adam.update(a @ (fast - s), state)
        fast = fast - LR * direction
      total += 0.5 * (fast - q) @ a @ (fast - q)
    return total
  with jax.enable_x64(True):
    want, slope = jax.value_and_grad(outer)(jax.numpy.asarray(theta))
  learner = maml.build(context(), inner_steps=STEPS, inner_lr=LR, inner_optimizer="adam", mixed_mode=mixed_mode)
  total, grads = run(learner, {"theta": theta}, batch)
  np.testing.assert_allclose(total, want, rtol=1e-6)
  np.testing.assert_allclose(grads["theta"], slope, rtol=1e-5)
  flat = {n: np.zeros(SIZE) for n in ("theta",)}
  _, at_rest = run(learner, flat, {p: {**b, "centre": np.zeros_like(b["centre"])} for p, b in batch.items()})
  assert np.isfinite(at_rest["theta"]).all()  # no gradient, and the root of zero is not differentiated


def test_inner_rate_zero_and_no_steps_are_plain_training(family):
  theta, batch, A, _, c_q, _ = family
  plain = np.einsum("tij,tj->i", A, theta - c_q)
  for learner in (maml.build(context(), inner_steps=STEPS, inner_lr=0.0), maml.build(context(), inner_steps=0)):
    _, grads = run(learner, {"theta": theta}, batch)
    np.testing.assert_allclose(grads["theta"], plain, rtol=1e-6)


def test_what_the_pattern_does_not_take_is_not_moved_inside(family):
  theta, batch, *_ = family
  learner = anil.build(context(("theta", "body")), adapt="theta", inner_lr=LR)
  seen = learner.adapt(loss_fn, {"theta": theta, "body": theta}, jax.tree.map(lambda a: a[0], batch["support"]), None,
                       steps=3, each=lambda params: params)
  assert (np.asarray(seen["body"]) == np.asarray(seen["body"])[:1]).all()
  assert not np.allclose(seen["theta"][1], seen["theta"][0])
