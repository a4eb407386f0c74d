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


def test_in_context_the_documents_are_tokens_and_their_topics_stand_behind_them():
  settings = config(form="in_context", shots=1)
  settings |= dict(model=dict(name="gpt", variant="debug", width=16, depth=1, heads=2),
                   objective=dict(name="causal_lm"), train=dict(steps=2, batch_size=8, length=4 * 17 - 1))
  run = experiment.build(settings)
  batch = run.corpus.train.take(5, Plan(8, 4 * 17 - 1))
  assert run.corpus.vocab_size == 33 and (batch["segment_ids"] == 1).all()
  rows = np.concatenate([batch["tokens"], batch["targets"][:, -1:]], axis=1).reshape(8, 4, 17)
  assert (rows[..., :16] < 30).all() and (np.sort(rows[:, :3, 16], axis=1) == [30, 31, 32]).all()
  assert (batch["weights"].sum(1) == 1).all() and (batch["weights"][:, -1] == 1).all()
  overlap = lambda row, shown: len(set(row[3, :16]) & set(shown))
  right = [overlap(r, r[np.flatnonzero(r[:3, 16] == r[3, 16])[0], :16]) for r in rows]
  wrong = [np.mean([overlap(r, s[:16]) for s in r[:3] if s[16] != r[3, 16]]) for r in rows]
  assert np.mean(right) > np.mean(wrong)  # the label is that of the document with the same topic
  held = run.corpus.evals["validation"].take(0, Plan(4, 4 * 17 - 1))
  assert held["tokens"].shape == (4, 3, 67) and held["answer"].max() < 3
