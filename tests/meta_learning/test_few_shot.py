"""Episodes of topics, and prototypical networks over them: new topics every time, balanced, no label leaks."""

import numpy as np

from llm_jax import experiment
from llm_jax.core.types import Plan
from llm_jax.objectives import prototypical


def config(**data):
  return dict(
      model=dict(name="mlp", inputs=30, hidden=[16], outputs=8, init="he"),
      data=dict(name="topics", ways=3, shots=2, query=4, vocabulary=30, temperature=3.0, eval_tasks=64) | data,
      objective=dict(name="prototypical", ways=3, raw=True), optimizer=dict(name="adam", peak=1e-2),
      train=dict(steps=4, batch_size=8, length=1), evaluation=dict(batch_size=64))


def test_every_class_has_its_shots_and_its_queries():
  batch = experiment.build(config()).corpus.train.take(3, Plan(8, 1))
  for part, each in (("support", 2), ("query", 4)):
    counts = [np.bincount(row, minlength=3) for row in batch[part]["labels"]]
    assert (np.array(counts) == each).all()
    np.testing.assert_allclose(batch[part]["inputs"].sum(-1), 16.0)
  orders = {tuple(row) for row in batch["support"]["labels"]}
  assert len(orders) > 1  # the place in the support set does not give the label away


def test_the_nearest_mean_is_above_chance_and_permuted_labels_are_not():
  found = []
  for permute in (False, True):
    run = experiment.build(config(permute_query=permute))
    found.append(run.evaluate(run.init_state().params, {})["eval/accuracy"])
  assert found[0] > 0.6 and abs(found[1] - 1 / 3) < 0.06, found


def test_the_loss_is_the_softmax_of_distances_to_class_means():
  random = np.random.default_rng(0)
  part = lambda rows: {"inputs": random.normal(size=(2, rows, 3)).astype(np.float32),
                       "labels": np.tile(np.arange(rows) % 2, (2, 1)), "weights": np.ones((2, rows), np.float32)}
  batch = {"support": part(4), "query": part(6)}
  losses = prototypical.build(ways=2, raw=True)(None, {}, batch, None, {})
  for t in range(2):
    s, q = ({n: a[t] for n, a in batch[p].items()} for p in ("support", "query"))
    means = np.stack([s["inputs"][s["labels"] == c].mean(0) for c in range(2)])
    scores = -np.square(q["inputs"][:, None] - means[None]).sum(-1)
    want = np.log(np.exp(scores).sum(1)) - scores[np.arange(6), q["labels"]]
    np.testing.assert_allclose(losses.values[t], want, rtol=1e-4)


def test_training_goes_through_the_whole_episode():
  settings = config()
  settings["objective"] = dict(name="prototypical", ways=3)
  settings["mesh"] = dict(data=4, fsdp=2)
  run = experiment.build(settings)
  state = run.init_state()
  before = np.asarray(state.params["layers.0.kernel"])
  state, vector = run.compiled_step(state, run.batch(0), {})
  metrics = dict(zip(run.metric_names, np.asarray(vector)))
  assert np.isfinite(metrics["loss"]) and 0 <= metrics["accuracy"] <= 1
  assert np.abs(np.asarray(state.params["layers.0.kernel"]) - before).max() > 0
