"""Meta-learning through the wiring: what is saved, what is refused, what a resume serves, what LoRA leaves alone."""

import jax
import numpy as np
import pytest

from llm_jax import experiment
from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Plan
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.step import knobs_of


def config(**changes):
  base = dict(
      model=dict(name="mlp", hidden=[8, 8]), data=dict(name="sinusoids", support=4, query=6, eval_tasks=10),
      objective=dict(name="regression"), meta_learning=dict(name="maml", inner_steps=2),
      optimizer=dict(name="adam", peak=1e-2, decay="constant"), train=dict(steps=4, batch_size=8, length=1),
      mesh=dict(data=4, fsdp=2))
  return {**base, **changes}


def one_step(run, state=None, step=0):
  state = run.init_state() if state is None else state
  plan = run.curriculum.plan(step, run.curriculum.init())
  return run.compiled_step(state, run.batch(step), knobs_of(plan))[0]


def test_what_a_learner_trains_is_saved_sharded_and_restored(tmp_path):
  run = experiment.build(config(meta_learning=dict(name="meta_sgd", inner_lr=0.02)))
  state = run.init_state()
  names = {f"meta.{n}.rate": n for n in run.base.shapes}
  assert set(state.params) == set(run.base.shapes) | set(names)
  for rate, name in names.items():
    assert state.params[rate].sharding == state.params[name].sharding
    assert (np.asarray(state.params[rate]) == np.float32(0.02)).all()
  assert any(not p.sharding.is_fully_replicated for n, p in state.params.items() if n in names)
  state = one_step(run, state)
  assert all(np.ptp(np.asarray(state.params[n])) > 0 for n in names if n.endswith("kernel.rate"))
  with Checkpoints(tmp_path) as saved:
    saved.save(1, state, {}, {})
    saved.wait()
    again, _ = saved.restore(1, run.abstract_state)
  for n, p in state.params.items():
    np.testing.assert_array_equal(again.params[n], p)
    assert again.params[n].sharding == p.sharding


def test_a_step_of_training_gives_the_same_numbers_on_another_mesh():
  results = [one_step(experiment.build(config(mesh=mesh))).params for mesh in (dict(data=4, fsdp=2), dict(data=8))]
  for n in results[0]:
    np.testing.assert_allclose(results[0][n], results[1][n], rtol=1e-4, atol=1e-6)


def test_micro_batches_of_tasks_are_one_batch():
  train = dict(steps=4, batch_size=8, length=1)
  mesh = dict(data=2, fsdp=4, tensor=1)
  data = dict(name="sinusoids", support=4, query=8, eval_tasks=10)
  whole = one_step(experiment.build(config(mesh=mesh, data=data, train=train))).params
  parts = one_step(experiment.build(config(mesh=mesh, data=data, train=train | dict(accumulate=4)))).params
  for n in whole:
    np.testing.assert_allclose(parts[n], whole[n], rtol=1e-4, atol=1e-6)


def test_episodes_are_a_function_of_seed_and_step_and_support_is_not_query():
  run, again, other = (experiment.build(config(train=dict(steps=4, batch_size=8, length=1, seed=s))) for s in (0, 0, 1))
  plan = Plan(8, 1)
  for step in (0, 3):
    first, second, third = (r.corpus.train.take(step, plan) for r in (run, again, other))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert (first["support"]["inputs"] != third["support"]["inputs"]).all()
    halves = [run.corpus.train.take(step, plan, rows) for rows in (slice(0, 4), slice(4, 8))]
    jax.tree.map(lambda a, b, c: np.testing.assert_array_equal(np.concatenate([a, b]), c), *halves, first)
    assert not np.isin(first["support"]["inputs"], first["query"]["inputs"]).any()


def test_held_out_tasks_do_not_depend_on_the_batch_and_count_once():
  run = experiment.build(config())
  data = run.corpus.evals["validation"]
  def served(batch):
    parts = [data.take(i, Plan(batch, 1))["query"] for i in range(data.batches(batch, 1))]
    weights = np.concatenate([p["weights"] for p in parts])
    return np.concatenate([p["targets"] for p in parts])[weights[:, 0] > 0]
  assert served(4).shape[0] == 10
  np.testing.assert_array_equal(served(4), served(10))


def test_evaluation_reports_the_curve_of_adaptation():
  run = experiment.build(config(adaptation=dict(steps=[0, 1, 3]), evaluation=dict(batch_size=8)))
  found = run.evaluate(run.init_state().params, {})
  assert set(found) == {"eval/loss", "eval/loss_after_0_steps", "eval/loss_after_1_step", "eval/loss_after_3_steps"}
  assert found["eval/loss_after_3_steps"] < found["eval/loss_after_1_step"] < found["eval/loss_after_0_steps"]


def test_lora_alone_adapts_and_is_trained():
  run = experiment.build(config(
      peft=dict(name="lora", rank=2, targets="layers|head"), meta_learning=dict(name="maml", adapt="lora_b")))
  state = run.init_state()
  before = jax.device_get((state.params, state.frozen))
  assert set(state.frozen) == set(run.base.shapes)
  assert all(n.endswith(("lora_a", "lora_b")) for n in state.params)
  after = one_step(run, state)
  jax.tree.map(np.testing.assert_array_equal, before[1], jax.device_get(after.frozen))
  assert np.abs(np.asarray(after.params["head.lora_b"])).max() > 0


@pytest.mark.parametrize(("changes", "message"), [
    (dict(train=dict(steps=4, batch_size=6, length=1)), "6 tasks do not divide over 4 devices"),
    (dict(data=dict(name="sinusoids", support=5, query=6)), "2 does not divide the 5 of axis .examples. of the"),
    (dict(data=dict(name="sinusoids", form="examples"), train=dict(steps=4, batch_size=8, length=1)), "serve single"),
    (dict(meta_learning=dict(name="none")), "which the data do not serve"),
    (dict(curriculum=dict(name="knobs", knobs={"k_shot": dict(start=1, end=9, whole=True)})),
     "knobs.k_shot: got 9, and the data hold 4"),
    (dict(curriculum=dict(name="knobs", knobs={"k_shots": dict(start=1, end=2)})), "did you mean: k_shot"),
    (dict(meta_learning=dict(name="maml", inner_batch_size=3)), "3 does not divide the 4 examples"),
    (dict(meta_learning=dict(name="maml_plus_plus", second_order_from=-1)), "second_order_from: got -1"),
    (dict(data=dict(name="topics", ways=7), objective=dict(name="labels"), model=dict(
        name="mlp", inputs=200, outputs=5)), "config.model.outputs: 5, but the data have 7 labels"),
    (dict(data=dict(name="topics", ways=4), objective=dict(name="prototypical", ways=3), model=dict(
        name="mlp", inputs=200, outputs=8), meta_learning=dict(name="none")), "objective.ways: 3, but the data have 4"),
    (dict(meta_learning=dict(name="mamml")), "did you mean: maml"),
    (dict(meta_learning=dict(name="anil", adapt="hed$")), "takes no parameter"),
    (dict(adaptation=dict(lr=0.1)), "adapts by its own rule"),
    (dict(data=dict(name="sinusoids", form="examples"), meta_learning=dict(name="none")), "config.adaptation.lr"),
    (dict(model=dict(name="gpt", variant="debug", attention="splash"), objective=dict(name="causal_lm")),
     "'splash' has first derivatives only"),
])
def test_the_impossible_is_refused_before_compiling(changes, message):
  with pytest.raises(ConfigError, match=message):
    experiment.build(config(**changes))
