"""Every setting of sampling against its published definition, written out in numpy with a sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.inference import sampling
from llm_jax.inference.sampling import Sampling

V = 50


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def top_k(scores, k):
  least = np.sort(scores, -1)[:, ::-1][:, k - 1:k]
  return np.where(scores < least, -np.inf, scores)


def top_p(scores, p):
  result = scores.copy()
  for row in result:
    up = np.argsort(row)
    remove = up[:-1][np.cumsum(softmax(row[up]))[:-1] <= 1 - p]
    row[remove] = -np.inf
  return result


def min_p(scores, p):
  probabilities = softmax(scores)
  return np.where(probabilities < p * probabilities.max(-1, keepdims=True), -np.inf, scores)


def penalize(scores, seen, penalty):
  return np.where(seen, np.where(scores < 0, scores * penalty, scores / penalty), scores)


@pytest.fixture
def scores():
  return np.random.default_rng(0).normal(size=(6, V)).astype(np.float32) * 3


@pytest.mark.parametrize("k", [1, 2, 7, V - 1, V])
def test_top_k(scores, k):
  np.testing.assert_array_equal(sampling.keep_top_k(scores, jnp.int32(k)), top_k(scores, k))


def test_top_k_keeps_all_that_are_as_good_as_the_last(scores):
  scores[:, 10:20] = scores.max() + 1
  assert np.isfinite(sampling.keep_top_k(scores, jnp.int32(3))).sum() == 60


@pytest.mark.parametrize("p", [0.0, 0.05, 0.4, 0.9, 0.999, 1.0])
def test_top_p(scores, p):
  np.testing.assert_array_equal(sampling.keep_top_p(scores, jnp.float32(p)), top_p(scores, p))


@pytest.mark.parametrize("p", [0.0, 0.03, 0.5, 1.0])
def test_min_p(scores, p):
  np.testing.assert_array_equal(sampling.keep_min_p(scores, jnp.float32(p)), min_p(scores, p))


def test_the_whole_chain_in_its_order(scores):
  seen = np.random.default_rng(1).random(scores.shape) < 0.3
  chosen = Sampling(temperature=1.7, top_k=12, top_p=0.8, min_p=0.05, repetition_penalty=1.4)
  arrays = sampling.settings(chosen, (), jax.random.split(jax.random.key(0), 6))
  ours = sampling.warp(sampling.penalize(jnp.asarray(scores), seen, arrays.repetition_penalty), arrays)
  theirs = min_p(top_p(top_k(penalize(scores, seen, np.float32(1.4)) / np.float32(1.7), 12), 0.8), 0.05)
  np.testing.assert_allclose(ours, theirs, rtol=1e-6)
  assert 1 < np.isfinite(theirs).sum(-1).max() < 12


def test_infinities_of_a_mask_stay_out(scores):
  scores[:, :40] = -np.inf
  for kept in (sampling.keep_top_k(scores, jnp.int32(20)), sampling.keep_top_p(scores, jnp.float32(0.99)),
               sampling.keep_min_p(scores, jnp.float32(0.01))):
    assert not np.isfinite(np.asarray(kept)[:, :40]).any() and not np.isnan(np.asarray(kept)).any()


def test_draws_follow_the_distribution(scores):
  rows = 20_000
  arrays = sampling.settings(Sampling(temperature=2.0, top_k=6), (), jax.random.split(jax.random.key(3), rows))
  logits = jnp.broadcast_to(scores[0], (rows, V))
  drawn, logprobs = jax.jit(sampling.choose)(logits, jnp.zeros((rows, V), bool), jnp.int32(4), arrays)
  counts = np.bincount(np.asarray(drawn), minlength=V) / rows
  np.testing.assert_allclose(counts, softmax(top_k(scores[:1] / 2, 6))[0], atol=0.015)
  np.testing.assert_allclose(logprobs[:50], np.log(softmax(scores[0]))[np.asarray(drawn)[:50]], rtol=1e-4)
