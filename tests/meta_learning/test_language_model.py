"""Meta-gradients of a language model: finite differences, every way to compute them, order 1 is not order 2."""

import jax
import jax.numpy as jnp
import language
import numpy as np
import pytest

from llm_jax.meta_learning import anil, imaml, maml

STEPS, LR = 2, 0.1


def grads_of(learner, params, batch, loss_fn=None, seed=0):
  loss_fn = loss_fn or language.loss_of(language.model())
  arguments = params, batch, jax.random.key(seed)
  return language.compiled(learner(loss_fn, 0), *arguments)(*arguments)


@pytest.fixture(scope="module")
def setting():
  model = language.model()
  return language.context(model), language.params(model), language.episodes()


def test_the_gradient_is_that_of_finite_differences_in_float64(monkeypatch):
  monkeypatch.setattr(jnp, "float32", jnp.float64)  # norms, softmax and loss are computed in `jnp.float32`
  with jax.enable_x64(True):
    model = language.model(dtype="float64")
    params = {n: p.astype("float64") for n, p in language.params(model).items()}
    batch = jax.tree.map(lambda a: a.astype("float64") if a.dtype == "float32" else a, language.episodes())
    learner = maml.build(language.context(model), inner_steps=STEPS, inner_lr=LR)
    run = language.compiled(learner(language.loss_of(model), 0), params, batch, jax.random.key(0))
    _, grads = run(params, batch, jax.random.key(0))
    assert all(g.dtype == np.float64 for g in grads.values())
    for seed in range(2):
      random = np.random.default_rng(seed)
      way = {n: random.normal(size=p.shape) for n, p in params.items()}
      def at(size, way=way):
        there = {n: p + size * way[n] for n, p in params.items()}
        return float(run(there, batch, jax.random.key(0))[0].total)
      step = 1e-5
      numeric = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
      exact = sum(float(np.vdot(way[n], g)) for n, g in grads.items())
      assert abs(numeric - exact) <= 1e-5 * abs(exact), (numeric, exact)


@pytest.mark.slow
def test_remat_and_mixed_mode_change_nothing(setting):
  context, params, batch = setting
  _, want = grads_of(maml.build(context, inner_steps=STEPS, inner_lr=LR, remat=False, mixed_mode=False), params, batch)
  _, got = grads_of(maml.build(context, inner_steps=STEPS, inner_lr=LR), params, batch)
  assert language.difference(got, want) < 2e-6
  _, first = grads_of(maml.build(context, inner_steps=STEPS, inner_lr=LR, order=1), params, batch)
  assert 0.05 < language.difference(first, want) < 2.0  # the first order is another gradient


@pytest.mark.slow
def test_dropout_is_the_same_when_a_step_is_computed_again():
  model = language.model(residual_dropout=0.3, embed_dropout=0.3)
  params, batch = language.params(model), language.episodes()
  ways = [maml.build(language.context(model), inner_steps=STEPS, inner_lr=LR, remat=r, mixed_mode=m)
          for r, m in ((False, False), (True, True))]
  results = [grads_of(way, params, batch, language.loss_of(model)) for way in ways]
  np.testing.assert_allclose(results[0][0].total, results[1][0].total, rtol=1e-6)
  assert language.difference(results[0][1], results[1][1]) < 1e-5
  other = grads_of(ways[0], params, batch, language.loss_of(model), seed=1)
  assert float(other[0].total) != float(results[0][0].total)


def test_fast_weights_are_float32_in_a_bfloat16_model():
  model = language.model(dtype="bfloat16")
  params = language.params(model)
  learner = maml.build(language.context(model), inner_lr=1e-6)
  one = jax.tree.map(lambda a: a[0], language.episodes())
  after = learner.adapt(language.loss_of(model), params, one["support"], None, steps=1, each=lambda params: params)
  moved = {n: float(np.abs(a[1] - a[0]).max()) for n, a in after.items()}
  assert all(a.dtype == np.float32 for a in after.values())
  assert moved["tokens.embedding"] > 0  # a bfloat16 weight of 0.02 would not move by 1e-7


@pytest.mark.parametrize("learner", ["maml", pytest.param("imaml", marks=pytest.mark.slow)])
def test_what_does_not_adapt_is_trained_through_the_adaptation(setting, learner):
  context, params, batch = setting
  if learner == "maml":
    built = anil.build(context, adapt="final_norm", inner_steps=STEPS, inner_lr=LR)
  else:
    built = imaml.build(context, adapt="final_norm", inner_steps=200, inner_lr=0.2, lam=1.0, cg_steps=20)
  _, grads = grads_of(built, params, batch)
  step = 3e-2
  way = {n: np.zeros(p.shape, np.float32) for n, p in params.items()}
  name = "blocks.feed_forward.up.kernel"
  way[name] = np.asarray(grads[name]) / np.linalg.norm(grads[name])
  at = lambda size: float(grads_of(built, {n: p + size * way[n] for n, p in params.items()}, batch)[0].total)
  numeric = (at(step) - at(-step)) / (2 * step)
  np.testing.assert_allclose(numeric, np.linalg.norm(grads[name]), rtol=2e-2)
