"""Permutations: who sees whom, exactly, and what is predicted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from text_rows_fixture import batch, tokenizer

from llm_jax.core.errors import ConfigError
from llm_jax.core.output import Output
from llm_jax.objectives import permutation_lm
from llm_jax.objectives.text_rows import is_text

TOKENS = tokenizer()


def factorised(rows: dict, key=None, **knobs) -> tuple[np.ndarray, np.ndarray]:
  objective = permutation_lm.build(**knobs).for_tokenizer(TOKENS)
  return jax.tree.map(np.asarray, jax.jit(objective.factorised)(rows, key))


def test_a_predicted_token_is_seen_by_those_behind_it_in_one_order_alone():
  rows = batch(16, 48, padding=5)
  chosen, hidden = factorised(rows, jax.random.key(0), last=4.0)
  segments = np.asarray(rows["segment_ids"])
  for r in range(16):
    same = segments[r][:, None] == segments[r][None]
    assert (hidden[r][~same] == 1).all()  # no other document
    free = np.broadcast_to(~chosen[r][None], same.shape) & same
    assert (hidden[r][free] == 0).all()  # what is not predicted is seen by all
    asks = np.broadcast_to(~chosen[r][:, None], same.shape) & chosen[r][None]
    assert (hidden[r][asks] == 1).all()  # and sees nothing that is
    for number in (1, 2):
      mine = np.flatnonzero(chosen[r] & (segments[r] == number))
      sees = 1 - hidden[r][np.ix_(mine, mine)]
      assert (np.sort(sees.sum(1)) == np.arange(len(mine))).all()  # a strict order: the k-th sees k before it
      assert (np.diag(sees) == 0).all() and not (sees * sees.T).any()


def test_the_last_share_of_the_order_is_predicted_in_spans():
  rows = batch(64, 96)
  text = np.asarray(is_text(rows, TOKENS)).sum(1)
  chosen, _ = factorised(rows, jax.random.key(0))
  np.testing.assert_array_equal(chosen.sum(1), np.floor(text / 6 + 0.5))
  runs = (np.diff(np.pad(chosen.astype(int), ((0, 0), (1, 1)))) == 1).sum()
  assert chosen.sum() / runs > 2
  a, b = factorised(rows), factorised(jax.tree.map(lambda x: x[5:7], rows))
  np.testing.assert_array_equal(a[1][5:7], b[1])


def test_inputs_are_xlnets_and_the_loss_is_on_what_is_mapped():
  rows = batch(4, 48, padding=6)
  logits = jax.random.normal(jax.random.key(1), (48, 300))
  def apply(kept, *, input_ids, attention_mask, perm_mask, target_mapping, key):
    kept.update(ids=input_ids, mask=attention_mask, perm_mask=perm_mask)
    return Output(target_mapping @ jnp.broadcast_to(jnp.eye(48), (4, 48, 48)), lambda h: h @ logits)
  objective = permutation_lm.build().for_tokenizer(TOKENS)
  def step(rows, key):
    kept = {}
    losses = objective(apply, kept, rows, key, {})
    return losses, kept, objective.factorised(rows, jax.random.split(key)[0])
  losses, kept, (chosen, perm_mask) = jax.jit(step)(rows, jax.random.key(2))
  np.testing.assert_array_equal(kept["perm_mask"], perm_mask)
  np.testing.assert_array_equal(kept["ids"], rows["tokens"])
  np.testing.assert_array_equal(kept["mask"], rows["segment_ids"] > 0)
  assert losses.values.shape == (4, 8) and losses.weights.sum() == chosen.sum()
  log_p = np.asarray(jax.nn.log_softmax(logits))
  for r in range(4):
    places = np.flatnonzero(np.asarray(chosen)[r])
    want = [-log_p[p, rows["tokens"][r, p]] for p in places]
    np.testing.assert_allclose(np.asarray(losses.values)[r, :len(places)], want, rtol=1e-5)


def test_what_cannot_be_is_refused():
  with pytest.raises(ConfigError, match="last"):
    permutation_lm.build(last=0.5)
