"""Every loss scheduler trains every kind of model from one line of config: on 2 x 2 x 2 devices, in micro-batches, in
bfloat16 with fast weights in float32, and goes on from a checkpoint with the same bits.
"""

import every_learner
import jax
import numpy as np
import pytest

from llm_jax import experiment, few_shot
from llm_jax.core import example_weights, plugins
from llm_jax.core.types import Plan
from llm_jax.meta_learning import meta_weight_net
from llm_jax.meta_learning.context import Context
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.step import mean_weighting


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return every_learner.write_classes(tmp_path_factory.mktemp("texts") / "classes")


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
  monkeypatch.setenv("LLM_JAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def after_one_more(run, state):
  """(state, metrics) after the state's next update."""
  state, vector = run.compiled_step(state, run.batch(int(state.step)), {})
  return state, dict(zip(run.metric_names, np.asarray(vector).tolist(), strict=True))


def made_params(model):
  """Parameters without a compiled program."""
  random = np.random.default_rng(0)
  return {n: np.float32(n.endswith("scale")) + 0.1 * random.normal(size=s.shape).astype(np.float32)
          for n, s in model.shapes.items()}


def bits(state):
  return {n: np.asarray(a).tobytes() for n, a in state.params.items()}


def fast_weights(run, learner):
  """Shapes of the parameters after one inner step, if the learner takes any."""
  built = plugins.bind("meta_learning", every_learner.LEARNERS[learner], "config.meta_learning")(
      Context(run.base.shapes, run.base.logical_axes))
  if not hasattr(built, "adapt"):
    return {}
  part = run.corpus.train.take(0, Plan(8, run.train.length))["support"]
  one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), part)
  loss_fn = few_shot.loss_of(run.model.apply, run.objective, {})
  adapt = lambda params, support: built.adapt(loss_fn, params, support, None, steps=1, each=lambda p: p)
  return jax.eval_shape(adapt, run.model.shapes, one)


@pytest.mark.slow
@pytest.mark.parametrize("learner", every_learner.LEARNERS)
@pytest.mark.parametrize("model", every_learner.MODELS)
def test_one_line_trains_saves_and_goes_on(model, learner, folder, tmp_path):
  run = experiment.build(every_learner.config(folder, model, learner))
  state, first = after_one_more(run, run.init_state())
  state, second = after_one_more(run, state)
  assert all(np.isfinite(m["loss"]) and m["gradient_norm"] > 0 and m["target_tokens"] > 0 for m in (first, second))
  assert {a.dtype for a in state.params.values()} == {np.dtype(np.float32)}
  assert {a.dtype for a in fast_weights(run, learner).values()} <= {np.dtype(np.float32)}
  with Checkpoints(tmp_path) as saved:
    saved.save(2, state, {}, {})
    saved.wait()
    again, _ = saved.restore(2, run.abstract_state)
  before = bits(again)
  (state, _), (again, _) = after_one_more(run, state), after_one_more(run, again)
  assert bits(state) == bits(again) != before
  assert np.isfinite(run.evaluate(state.params, state.frozen)["eval/loss"])


@pytest.mark.parametrize("form", ["episodes", "in_context"])
def test_masks_fall_on_the_text_of_a_row_and_not_on_what_is_asked_for_alone(form, folder):
  learner = "reweight" if form == "episodes" else "none"
  config = every_learner.config(folder, "bert", learner, mesh=dict(data=8))
  config["data"] = every_learner.config(folder, "bert", "maml")["data"] | dict(form=form)
  config["train"] |= dict(length=24 if form == "episodes" else 160, accumulate=1)
  run = experiment.build(config)
  batch = run.fields(run.corpus.train.take(0, Plan(8, run.train.length)))
  rows = jax.tree.map(lambda a: a[0], batch["query"]) if form == "episodes" else batch
  loss = jax.jit(lambda rows: run.objective(run.model.apply, made_params(run.model), rows, jax.random.key(1), {}))
  losses, real = loss(rows), np.asarray(rows["segment_ids"]) > 0
  chosen, asked = np.asarray(losses.weights) > 0, np.asarray(rows["weights"]) > 0
  assert not real.all() and not chosen[~real].any()
  assert chosen.sum() > 0.08 * real.sum() and (chosen & ~asked).any()
  elsewhere = {**rows, "tokens": np.where(real, rows["tokens"], 65)}  # what stands behind the text is never read
  np.testing.assert_allclose(loss(elsewhere).values, losses.values, atol=2e-2)


def test_what_reads_left_to_right_needs_no_mask_for_padding(folder):
  run = experiment.build(every_learner.config(folder, "gpt", "maml"))
  batch = run.corpus.train.take(0, Plan(8, 24))
  assert "segment_ids" in batch["support"] and set(run.fields(batch)["support"]) == {"tokens", "targets", "weights"}


def test_a_learner_that_does_not_adapt_is_measured_as_it_is(folder):
  run = experiment.build(every_learner.config(folder, "lstm", "reweight"))
  assert {n for n in run.evaluation_names if "after" in n and "loss" in n} == {"eval/loss_after_0_steps"}


@pytest.mark.parametrize("model", ["gpt", "bert"])
def test_an_example_counts_by_its_weight_whatever_the_objective_chooses(model, folder):
  """Learning to reweight and Meta-Weight-Net weigh masked tokens, too."""
  config = every_learner.config(folder, model, "reweight", mesh=dict(data=8))
  run = experiment.build(config | dict(model=config["model"] | dict(dtype="float32"),
                                       train=config["train"] | dict(accumulate=1)))
  one = jax.tree.map(lambda a: a[0], run.fields(run.corpus.train.take(0, Plan(8, 24)))["support"])
  params, key = made_params(run.model), jax.random.key(1)
  def loss_fn(params, batch, key):
    losses = example_weights.applied(run.objective(run.model.apply, params, batch, key, {}), batch)
    loss = mean_weighting(losses, {})
    return loss.total, loss
  mean = jax.jit(lambda scale: meta_weight_net.example_losses(
      loss_fn, params, example_weights.scaled(one, scale), key))
  losses = jax.jit(lambda: run.objective(run.model.apply, params, one, key, {}))()
  want = (losses.values * losses.weights).sum(1) / losses.weights.sum(1)
  np.testing.assert_allclose(mean(np.ones(4, np.float32)), want, rtol=1e-4)
  scale = np.array([0.0, 1.0, 3.0, 0.5], np.float32)
  total = jax.jit(lambda scale: loss_fn(params, example_weights.scaled(one, scale), key)[0])
  np.testing.assert_allclose(total(scale), (scale[:, None] * losses.values * losses.weights).sum(), rtol=1e-4)


def test_a_network_that_weighs_examples_is_one_of_the_models_arrays(folder):
  """Every array that a learner trains is handed to the model with the others: names must be exactly the model's."""
  run = experiment.build(every_learner.config(folder, "lstm", "meta_weight_net"))
  assert {"loss", "gradient_norm"} <= set(run.metric_names)
