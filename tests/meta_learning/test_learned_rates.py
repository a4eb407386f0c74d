"""MAML++ and CAVIA: multi-step losses, rates per step, annealed order, contexts that start at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadratic import SIZE, context, loss_fn, tasks

from llm_jax.core.errors import ConfigError
from llm_jax.meta_learning import cavia, maml, maml_plus_plus, reptile

KEY = jax.random.key(0)


def grads(learner, params, batch, step=0):
  return jax.jit(lambda p: learner(loss_fn, step)(p, batch, KEY))(params)


@pytest.fixture(scope="module")
def setting():
  batch, *_ = tasks(3)
  return {"theta": jnp.ones(SIZE)}, jax.tree.map(np.float32, batch)


def plus_plus(params, **knobs):
  learner = maml_plus_plus.build(context(), inner_steps=3, inner_lr=0.1, **knobs)
  rates = {n: e.init(KEY) for n, e in learner.extras.items()}
  assert {n: r.shape for n, r in rates.items()} == {"meta.theta.rates": (3,)}
  return learner, {**params, **rates}


def test_at_the_end_of_annealing_it_is_maml_with_learned_rates(setting):
  params, batch = setting
  learner, whole = plus_plus(params, multi_step_until=0)
  _, want = grads(maml.build(context(), inner_steps=3, inner_lr=0.1), params, batch)
  _, got = grads(learner, whole, batch)
  np.testing.assert_allclose(got["theta"], want["theta"], rtol=1e-5)
  assert np.abs(got["meta.theta.rates"]).min() > 0


def test_before_its_step_the_order_is_first(setting):
  params, batch = setting
  learner, whole = plus_plus(params, multi_step_until=0, second_order_from=10)
  for step, order in ((9, 1), (10, 2)):
    _, want = grads(maml.build(context(), inner_steps=3, inner_lr=0.1, order=order), params, batch)
    np.testing.assert_allclose(grads(learner, whole, batch, step)[1]["theta"], want["theta"], rtol=1e-5)


def test_loss_weights_go_from_all_steps_to_the_last():
  weights = np.stack([maml_plus_plus.loss_weights(s, 5, 100) for s in (0, 50, 100, 1000)])
  np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-6)
  np.testing.assert_allclose(weights[0], 0.2, rtol=1e-6)
  np.testing.assert_allclose(weights[1, :4], 0.1, rtol=1e-6)
  np.testing.assert_allclose(weights[2], [0.006] * 4 + [0.976], rtol=1e-5)
  np.testing.assert_array_equal(weights[2], weights[3])


def test_a_context_starts_every_task_at_zero_and_is_not_trained():
  def shifted(params, batch, key):
    return loss_fn({"theta": params["theta"] + params["context"]}, batch, key)
  batch, A, c_s, c_q = tasks(3)
  batch = jax.tree.map(np.float32, batch)
  learner = cavia.build(context(("theta", "context")), inner_lr=0.1)
  theta = np.ones(SIZE, np.float32)
  results = [learner(shifted, 0)({"theta": theta, "context": np.full(SIZE, v, np.float32)}, batch, KEY) for v in (0, 7)]
  np.testing.assert_array_equal(results[0][1]["theta"], results[1][1]["theta"])
  assert not np.asarray(results[1][1]["context"]).any()
  shrink = np.eye(SIZE) - 0.1 * A
  want = np.einsum("tij,tjk,tk->i", shrink, A, theta - 0.1 * np.einsum("tij,tj->ti", A, theta - c_s) - c_q)
  np.testing.assert_allclose(results[0][1]["theta"], want, rtol=1e-4)


def test_impossible_knobs_are_refused():
  for build, knobs, key in ((maml.build, dict(order=3), "order"), (maml.build, dict(inner_lr=-1.0), "inner_lr"),
                            (maml.build, dict(adapt="hed"), "adapt"),
                            (reptile.build, dict(inner_steps=1), "inner_steps")):
    with pytest.raises(ConfigError, match=f"config.meta_learning.{key}"):
      build(context(), **knobs)


def test_inner_batches_take_the_support_in_turn(setting):
  _, batch = setting
  one = {n: np.concatenate([a[0]] * 4) for n, a in batch["support"].items()}
  one["centre"] = np.arange(4, dtype=np.float32)[:, None] * np.ones(SIZE, np.float32)
  one["matrix"] = np.broadcast_to(np.eye(SIZE, dtype=np.float32), (4, SIZE, SIZE))
  learner = maml.build(context(), inner_lr=1.0, inner_batch_size=2)
  seen = learner.adapt(loss_fn, {"theta": jnp.zeros(SIZE)}, one, None, steps=3, each=lambda p: p["theta"][0])
  np.testing.assert_allclose(seen, [0.0, 0.5, 2.5, 0.5])
