"""In-context meta-training: a row is the support set and one query, held-out classes are never trained on, a curriculum
paces ways and shots without a compilation, and what is learned is measured by gradient and in context."""

import jax
import numpy as np
import pytest

from llm_jax import experiment, few_shot
from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Losses, Plan
from llm_jax.data import labelled_episodes
from llm_jax.data.episodes import generator
from llm_jax.data.few_shot import Family, Task
from llm_jax.evaluation import choices

WAYS, SHOTS, QUERY, SEP, END = 3, 2, 2, 90, 91


def make(random, size):
  """Class c has answer 50 + c and passages of 10 + c, which say by their length which one they are."""
  numbers = iter(random.permutation(np.arange(1, 1 + WAYS * (SHOTS + QUERY))))
  passage = lambda c: np.full(min(int(next(numbers)), size - 1), 10 + c)
  draw = lambda each: [(passage(c), c) for _ in range(each) for c in range(WAYS)]
  return Task([np.array([50 + c]) for c in range(WAYS)], draw(SHOTS), draw(QUERY))


def family(**changes):
  return Family(make, WAYS, SHOTS, QUERY, **{**dict(between=(SEP,), after=(END,)), **changes})


def test_a_prompt_holds_the_support_set_and_asks_for_the_answer_of_the_query():
  batch = family().prompts(generator(0), Plan(4, 140))
  for tokens, targets, weights in zip(batch["tokens"], batch["targets"], batch["weights"]):
    (asked,) = np.flatnonzero(weights)
    examples = np.split(tokens[:asked + 1], np.flatnonzero(tokens[:asked + 1] == END) + 1)
    assert len(examples) == WAYS * SHOTS + 1
    for shown in examples[:-1]:
      passage, sep, answer = shown[:-3], shown[-3], shown[-2]
      assert sep == SEP and (passage == answer - 40).all() and len(passage)
    assert examples[-1][-1] == SEP and targets[asked] == examples[-1][0] + 40
    assert (tokens[asked + 1:] == 0).all()
    np.testing.assert_array_equal(tokens[1:asked + 1], targets[:asked])


def test_channel_asks_for_the_passage_behind_its_answer():
  batch = family(channel=True).prompts(generator(1), Plan(4, 140))
  for tokens, targets, weights in zip(batch["tokens"], batch["targets"], batch["weights"]):
    asked = np.flatnonzero(weights)
    assert tokens[asked[0]] == SEP and (targets[asked] == tokens[asked[0] - 1] - 40).all()


def test_a_plan_paces_ways_and_shots_within_the_same_shapes():
  whole = family().prompts(generator(2), Plan(6, 140))
  cut = family().prompts(generator(2), Plan(6, 140, knobs={"n_way": 2, "k_shot": 1}))
  assert cut["tokens"].shape == whole["tokens"].shape and (cut["weights"].sum(1) == 1).all()
  assert {int((row == END).sum()) for row in cut["tokens"]} == {2}
  assert not np.isin(cut["tokens"], [12, 52]).any() and np.isin(whole["tokens"], [52]).any()
  episode = family().episodes(generator(2), Plan(6, 40, knobs={"n_way": 2, "k_shot": 1}))
  assert (episode["support"]["weights"].sum((1, 2)) == 2).all() and (episode["query"]["weights"].sum((1, 2)) == 4).all()
  for knobs in ({"k_shot": 3}, {"n_way": 4}, {"n_way": 1}):
    with pytest.raises(ConfigError, match="and the data hold"):
      family().prompts(generator(2), Plan(6, 140, knobs=knobs))
  with pytest.raises(ConfigError, match="leaves 4 tokens for each of 7 examples"):
    family().prompts(generator(2), Plan(6, 30))


def test_the_choice_is_the_answer_with_the_lowest_mean_loss():
  random = np.random.default_rng(0)
  values, weights = random.random((5, 3, 4)), (random.random((5, 3, 4)) < 0.7).astype(np.float32)
  weights[0, 2], weights[4] = 0.0, 0.0
  answer = np.array([0, 1, 2, 0, 1])
  batch = {"weights": weights, "answer": answer}
  flat = lambda a: a.reshape(15, 4).astype(np.float32)
  loss = choices.judged(Losses(flat(values), flat(weights), {}), batch)
  means = np.where(weights.sum(-1) > 0, (values * weights).sum(-1) / np.maximum(weights.sum(-1), 1e-8), np.inf)
  hits = [means[q].argmin() == answer[q] for q in range(4)]  # the last query has no weight and does not count
  np.testing.assert_allclose(loss.metrics["accuracy"].total, sum(hits))
  assert float(loss.metrics["accuracy"].weight) == 4
  np.testing.assert_allclose(loss.total, sum((values * weights).sum(-1)[q, answer[q]] for q in range(4)), rtol=1e-6)


@pytest.fixture
def classes(tmp_path, monkeypatch):
  """Six classes of documents, each of its own letter, as subfolders."""
  monkeypatch.setenv("LLM_JAX_CACHE", str(tmp_path / "cache"))
  random = np.random.default_rng(0)
  for letter in "abcdef":
    folder = tmp_path / "texts" / f"T{'abcdef'.index(letter)}"
    folder.mkdir(parents=True)
    for i in range(24):
      (folder / f"{i:02d}.txt").write_text(f"{i:02d} " + letter * int(random.integers(3, 9)))
  return tmp_path / "texts"


def config(folder, **changes):
  data = dict(name="labelled_episodes", ways=2, shots=2, query=2, held_out=["T0", "T3"], eval_tasks=6,
              text=dict(name="text_folder", path=str(folder), tokenizer=dict(name="bytes"), split="documents",
                        validation_fraction=0.2))
  return dict(model=dict(name="gpt", variant="debug", width=16, depth=1, heads=2, scan=False),
              data=data | changes.pop("data", {}), objective=dict(name="causal_lm"),
              optimizer=dict(name="adam", peak=1e-2, decay="constant"), train=dict(steps=4, batch_size=4, length=96),
              mesh=dict(data=4, tensor=2),
              evaluation=dict(batch_size=4), **changes)


def letters(batch, part):
  tokens = np.asarray(batch[part]["tokens"] if part else batch["tokens"])
  return {chr(t) for t in np.unique(tokens) if t < 128} & set("abcdef")


@pytest.mark.parametrize("form", ["episodes", "in_context"])
def test_held_out_classes_are_never_trained_on(classes, form):
  meta = {"meta_learning": dict(name="fomaml", inner_lr=0.1)} if form == "episodes" else {}
  run = experiment.build(config(classes, data=dict(form=form), **meta))
  part = "support" if form == "episodes" else None
  seen = set.union(*(letters(run.corpus.train.take(step, Plan(4, 96)), part) for step in range(10)))
  held = letters(run.corpus.evals["validation"].take(0, Plan(4, 96)), part)
  assert seen == set("bcef") and held == set("ad")


def test_the_same_episode_on_any_host_and_no_document_twice(classes):
  run = experiment.build(config(classes, meta_learning=dict(name="fomaml", inner_lr=0.1)))
  source, plan = run.corpus.train, Plan(4, 30)
  whole = source.take(3, plan)
  halves = [source.take(3, plan, rows) for rows in (slice(0, 2), slice(2, 4))]
  jax.tree.map(lambda a, b, c: np.testing.assert_array_equal(np.concatenate([a, b]), c), *halves, whole)
  for task in range(4):
    heads = [bytes(row[:8].astype(np.uint8)) for part in ("support", "query") for row in whole[part]["tokens"][task]]
    assert len(set(heads)) == len(heads) == 8


def test_classes_are_split_by_name_or_by_fraction():
  names = [f"c{i}" for i in range(10)]
  train, held = labelled_episodes.split(names, 0.3)
  assert len(held) == 3 and sorted(train + held) == names and labelled_episodes.split(names, 0.3) == (train, held)
  assert labelled_episodes.split(names, 0)[1] == []
  with pytest.raises(ConfigError, match="did you mean: c3"):
    labelled_episodes.split(names, ["c33"])


def test_too_few_classes_are_refused(classes):
  with pytest.raises(ConfigError, match="3 classes in an episode, and there are 2"):
    experiment.build(config(classes, data=dict(ways=3, form="in_context")))


def test_what_is_learned_is_reported_by_gradient_and_in_context(classes):
  run = experiment.build(config(classes, data=dict(form="in_context"), adaptation=dict(lr=0.3, steps=(0, 2))))
  state = run.init_state()
  found = few_shot.report(run, state.params, state.frozen, 2)
  assert {n for n in found if n.startswith("accuracy/")} == {f"accuracy/{way}/{shots}" for way in (
      "gradient", "in_context") for shots in ("0_shots", "1_shot", "2_shots")}
  without = found["loss_after_2_steps/gradient/0_shots"]
  assert without["values"] == found["loss_after_0_steps/gradient/0_shots"]["values"]  # nothing to adapt to
  assert without["values"][0] != without["values"][1]  # another seed, other tasks
  assert found["loss_after_2_steps/gradient/2_shots"]["mean"] < found["loss_after_0_steps/gradient/2_shots"]["mean"]
  accuracy = found["accuracy/in_context/2_shots"]
  assert accuracy["worst"] == min(accuracy["values"]) and 0 <= accuracy["mean"] <= 1
  assert found["loss/in_context/0_shots"]["worst"] == max(found["loss/in_context/0_shots"]["values"])
