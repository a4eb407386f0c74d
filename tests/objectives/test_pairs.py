"""Pairs of texts: their layout, their labels, and that BERT's two losses read the same corrupted pair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from text_rows_fixture import batch, run, table, tokenizer

from llm_jax.core.errors import ConfigError
from llm_jax.objectives import bert_pretraining, next_sentence, pairs, sentence_order

TOKENS = tokenizer()
CLS, SEP, PAD = (TOKENS.special[role] for role in ("cls", "sep", "pad"))


def made_of(make, rows: dict, key=None) -> pairs.Pairs:
  """The pairs, from one compiled program."""
  def parts(rows, key):
    made = make(TOKENS, rows, key)
    return made.rows, made.labels, made.weights
  return pairs.Pairs(*jax.jit(parts)(rows, key))


def one_document(rows: int = 200, length: int = 33) -> dict:
  """Rows of which each is all of one document, with tokens that say which row and place they are from."""
  made = batch(rows, length, documents=False)
  return made | {"tokens": jnp.broadcast_to(jnp.arange(length), (rows, length)) + 40 * (jnp.arange(rows) % 2)[:, None]}


@pytest.mark.parametrize("make", [pairs.with_strangers, pairs.with_order])
def test_a_pair_is_cls_a_sep_b_sep(make):
  rows = batch(50, 64, seed=2)
  made = made_of(make, rows, jax.random.key(0))
  for ids, types, real in zip(*(np.asarray(made.rows[k]) for k in ("tokens", "token_type_ids", "segment_ids"))):
    size = int(real.sum())
    assert (real[:size] == 1).all() and (ids[size:] == PAD).all() and (types[size:] == 0).all()
    first, second = np.flatnonzero(ids[:size] == SEP)
    assert ids[0] == CLS and second == size - 1
    assert (types[:first + 1] == 0).all() and (types[first + 1:size] == 1).all()


def test_half_are_strangers_and_the_label_says_which():
  rows = one_document()
  made = made_of(pairs.with_strangers, rows, jax.random.key(1))
  ids, labels = np.asarray(made.rows["tokens"]), np.asarray(made.labels)
  assert 60 < labels.sum() < 140 and (np.asarray(made.weights) == 1).all()
  for r in range(200):
    a, b = ids[r, 1:16], ids[r, 17:32]
    np.testing.assert_array_equal(a, np.arange(15) + 40 * (r % 2))
    np.testing.assert_array_equal(b, np.arange(15, 30) + 40 * ((r + labels[r]) % 2))


def test_half_are_swapped_and_the_label_says_which():
  rows = one_document()
  made = made_of(pairs.with_order, rows, jax.random.key(1))
  ids, labels = np.asarray(made.rows["tokens"]), np.asarray(made.labels)
  assert 60 < labels.sum() < 140
  for r in range(200):
    found = np.concatenate([ids[r, 1:16], ids[r, 17:32]]) - 40 * (r % 2)
    np.testing.assert_array_equal(found, np.roll(np.arange(30), 15 * labels[r]))


def test_a_cut_between_documents_has_no_weight():
  rows = batch(40, 63, seed=3)
  cut = (63 - 3) // 2
  rows["segment_ids"] = rows["segment_ids"].at[:20, :cut].set(1).at[:20, cut:].set(2)
  for make in (pairs.with_strangers, pairs.with_order):
    made = made_of(make, rows, jax.random.key(0))
    segments = np.asarray(rows["segment_ids"])
    np.testing.assert_array_equal(made.weights, segments[:, cut - 1] == segments[:, cut])
    assert made.weights.sum() <= 20


def test_labels_are_hugging_faces_and_evaluation_repeats():
  rows, params = one_document(rows=16), table()
  logits = jnp.tile(jnp.array([[1.0, -1.0]]), (16, 1))  # sure that B follows A
  for objective, make in ((next_sentence, pairs.with_strangers), (sentence_order, pairs.with_order)):
    built = objective.build().for_tokenizer(TOKENS)
    (a, first), (b, second) = (run(built, params, rows, seq_relationship_logits=logits) for _ in range(2))
    np.testing.assert_array_equal(a.values, b.values)
    np.testing.assert_array_equal(first["input_ids"], second["input_ids"])
    labels = np.asarray(made_of(make, rows).labels)
    np.testing.assert_allclose(a.values, np.log1p(np.exp(-2)) + 2 * labels, rtol=1e-5)
    np.testing.assert_allclose(a.metrics["accuracy"].total, (labels == 0).sum())


@pytest.mark.parametrize("relation", ["next_sentence", "sentence_order"])
def test_berts_two_losses_come_from_one_pass_and_are_summed(relation):
  rows, params = one_document(rows=16), table()
  objective = bert_pretraining.build(relation=relation, relation_weight=0.5).for_tokenizer(TOKENS)
  logits = jax.random.normal(jax.random.key(5), (16, 2))
  losses, call = run(objective, params, rows, jax.random.key(0), seq_relationship_logits=logits)
  assert (call["input_ids"] == TOKENS.special["mask"]).sum() > 16
  mean = lambda m: float(m.total / m.weight)
  value = float((losses.values * losses.weights).sum() / losses.weights.sum())
  m = losses.metrics
  assert abs(value - mean(m["masked_lm_loss"]) - 0.5 * mean(m[f"{relation}_loss"])) < 1e-4
  assert m["masked_lm_loss"].weight == losses.weights.sum() > 16 and m[f"{relation}_loss"].weight == 16
  assert {f"{relation}_accuracy", "masked_lm_accuracy"} <= m.keys()


def test_one_row_has_no_partner():
  with pytest.raises(ConfigError, match="batch_size"):
    pairs.with_strangers(TOKENS, batch(1), jax.random.key(0))
