"""Episodes of masked words: the word is gone from its passages, classes are balanced, places are used once."""

from functools import partial

import numpy as np

from llm_jax.core.types import Plan
from llm_jax.data import masked_words
from llm_jax.data.episodes import generator
from llm_jax.data.few_shot import Family


def index(seed=0, vocabulary=40, size=5000):
  tokens = np.random.default_rng(seed).integers(1, vocabulary, size).astype(np.int32)
  stream = type("Stream", (), {"tokens": tokens})
  return masked_words.places([stream], vocabulary, 20, {1})


def take(step=0, ways=3, shots=2, query=4, tasks=5, form="episodes"):
  make = partial(masked_words.make_task, index=index(), ways=ways, shots=shots, query=query, mask=0)
  family = Family(make, ways, shots, query, between=(0,))
  return getattr(family, form)(generator("test", step), Plan(tasks, 16 if form == "episodes" else 16 * 7))


def test_one_label_for_each_word_and_only_the_end_counts():
  batch = take()
  for part, each in (("support", 2), ("query", 4)):
    labels = batch[part]["targets"][..., -1]
    assert batch[part]["tokens"].shape == (5, 3 * each, 16)
    for row in labels:
      assert sorted(np.unique(row, return_counts=True)[1]) == [each] * 3
    assert batch[part]["weights"].sum() == labels.size and (batch[part]["weights"][..., -1] == 1).all()
    assert (batch[part]["tokens"][..., -1] == 0).all()
  assert (np.sort(np.unique(batch["support"]["targets"][0, :, -1]))
          == np.sort(np.unique(batch["query"]["targets"][0, :, -1]))).all()


def test_the_word_is_masked_wherever_it_stands_in_its_passage():
  batch = take()
  assert ((batch["support"]["tokens"][..., :-1] == 0).sum(-1) >= 1).all()
  found = index()
  assert 1 not in found.words
  positions = found.order[found.starts[7]:found.starts[8]]
  assert (found.tokens[positions] == 7).all() and len(positions) == (found.tokens == 7).sum()


def test_episodes_are_a_function_of_their_key():
  np.testing.assert_array_equal(take(1)["query"]["tokens"], take(1)["query"]["tokens"])
  assert (take(1)["query"]["tokens"] != take(2)["query"]["tokens"]).any()


def test_in_context_the_label_of_the_query_has_been_shown():
  batch = take(form="prompts")
  for tokens, targets, weights in zip(batch["tokens"], batch["targets"], batch["weights"]):
    (asked,) = np.flatnonzero(weights)
    assert tokens[asked] == 0 and (targets[:asked] == targets[asked]).any()
    assert asked == 7 * 16 - 2  # every part of the row is used; the label itself is not read
