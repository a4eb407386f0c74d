"""The denoising entity auto-encoder: how alignments are corrupted, what counts, that evaluation repeats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.core.output import Output
from llm_jax.objectives import entity_alignment
from llm_jax.objectives.text_rows import row_keys

B, L, E = 8, 400, 6


def batch():
  draw = np.random.default_rng(0)
  labels = np.where(draw.random((B, L)) < 0.5, draw.integers(0, 4, (B, L)), -1)
  return dict(tokens=jnp.asarray(draw.integers(0, 50, (B, L))), entity_ids=jnp.asarray([[7, 3, 5, 9, 1, -1]] * B),
              entity_mask=jnp.asarray([[1, 1, 1, 1, 1, 0]] * B), entity_vectors=jnp.zeros((B, E, 3)),
              entity_labels=jnp.asarray(labels))


def test_shares_of_wrong_and_missing_alignments():
  given = batch()
  labels = np.asarray(given["entity_labels"])
  found = np.asarray(entity_alignment.build().corrupted(given, row_keys(jax.random.key(1), given["tokens"])))
  mentions = labels >= 0
  assert (found[~mentions] == -1).all()
  assert abs((found[mentions] == -1).mean() - 0.15) < 0.03
  wrong = mentions & (found >= 0) & (found != labels)
  assert abs(wrong.sum() / mentions.sum() - 0.05) < 0.02
  assert set(found[wrong].tolist()) == {0, 1, 2, 3, 4}  # any other entity of the row, never an empty slot


def test_a_row_with_one_entity_keeps_it():
  given = batch() | dict(entity_mask=jnp.asarray([[1, 0, 0, 0, 0, 0]] * B), entity_labels=jnp.zeros((B, L), jnp.int32))
  found = entity_alignment.build(wrong=1.0, gone=0.0).corrupted(given, row_keys(None, given["tokens"]))
  assert (np.asarray(found) == 0).all()


def knows(params, **inputs):
  """Scores that follow the alignment that was given."""
  return Output(extra={"entity_logits": 9.0 * jax.nn.one_hot(inputs["entity_alignment"], E)})


def test_the_loss_counts_mentions_alone_and_evaluation_repeats():
  objective, given = entity_alignment.build(), batch()
  losses = objective(knows, {}, given, None, {})
  mentions = np.asarray(given["entity_labels"]) >= 0
  np.testing.assert_array_equal(losses.weights, mentions)
  accuracy = losses.metrics["accuracy"]
  assert abs(float(accuracy.total / accuracy.weight) - 0.8 - 0.15 * np.mean(
      np.asarray(given["entity_labels"])[mentions] == 0)) < 0.04  # with no alignment the first slot is the guess
  assert float(losses.metrics["corrupted_accuracy"].weight) == (np.asarray(losses.values) > 1).sum()
  np.testing.assert_array_equal(losses.values, objective(knows, {}, given, None, {}).values)
  other = objective(knows, {}, given, jax.random.key(1), {})
  assert (np.asarray(other.values) != np.asarray(losses.values)).any()


def test_shares_that_cannot_be_are_refused():
  with pytest.raises(ConfigError, match=r"config.objective.wrong"):
    entity_alignment.build(wrong=0.6, gone=0.6)
