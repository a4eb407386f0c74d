"""Unlikelihood: the sum over the context written out, documents and padding kept apart, chunks without (B, L, V)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from text_rows_fixture import batch, run, sizes_in, table, tokenizer

from llm_jax.core.errors import ConfigError
from llm_jax.core.output import Output
from llm_jax.objectives import causal_lm, unlikelihood


def written_out(table: np.ndarray, rows: dict, alpha: float) -> tuple[np.ndarray, np.ndarray]:
  """(loss per token, whether its best guess is in the context), by loops."""
  logits = np.asarray(table, np.float64)[np.asarray(rows["tokens"])]
  logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  tokens, targets, segments = (np.asarray(rows[n]) for n in ("tokens", "targets", "segment_ids"))
  loss, repeats = np.zeros(tokens.shape), np.zeros(tokens.shape)
  for b, i in np.ndindex(*tokens.shape):
    context = {int(t) for t, s in zip(tokens[b, :i + 1], segments[b, :i + 1]) if s == segments[b, i]}
    against = sum(-np.log1p(-np.exp(logp[b, i, c])) for c in context - {int(targets[b, i])})
    loss[b, i] = -logp[b, i, targets[b, i]] + alpha * against
    repeats[b, i] = int(logits[b, i].argmax()) in context
  return loss, repeats


@pytest.mark.parametrize("chunk", ["auto", 30])
def test_the_loss_is_the_sum_over_different_tokens_of_the_context(chunk):
  rows, params, objective = batch(3, 40, padding=5), table(262), unlikelihood.build(alpha=0.6, chunk=chunk)
  losses, _ = run(objective, params, rows)
  want, repeats = written_out(params["table"], rows, 0.6)
  on = np.asarray(losses.weights) > 0
  np.testing.assert_allclose(np.asarray(losses.values)[on], want[on], rtol=2e-5)
  told = {n: float(m.total / m.weight) for n, m in losses.metrics.items()}
  np.testing.assert_allclose(told["repeats"], repeats[on].mean(), rtol=1e-5)
  np.testing.assert_allclose(told["nll"] + 0.6 * told["unlikelihood"], want[on].mean(), rtol=1e-5)


def test_without_weight_it_is_cross_entropy():
  rows, params = batch(2, 32), table(262)
  (ours, _), (plain, _) = run(unlikelihood.build(alpha=0.0), params, rows), run(causal_lm.build(), params, rows)
  np.testing.assert_allclose(ours.values, plain.values, rtol=1e-6)


def test_documents_and_padding_change_nothing():
  """Each document by itself, in a row of its own, has the losses that it has in the packed row."""
  rows, params = batch(1, 40, padding=7), table(262)
  packed, _ = run(unlikelihood.build(), params, rows)
  segments = np.asarray(rows["segment_ids"])[0]
  for number in (1, 2):
    mine = np.flatnonzero(segments == number)
    alone = {n: a[:, mine] for n, a in rows.items() if n != "segment_ids"}
    found, _ = run(unlikelihood.build(), params, alone)
    on = np.asarray(alone["weights"])[0] > 0
    np.testing.assert_allclose(np.asarray(found.values)[0][on], np.asarray(packed.values)[0, mine][on], rtol=1e-5)


def total(params, rows, chunk="auto"):
  output = lambda params, *, input_ids, key=None, **_: Output(params["hidden"], lambda h: h @ params["head"])
  losses = unlikelihood.build(chunk=chunk)(output, params, rows, None, {})
  return (losses.values * losses.weights).sum()


def test_the_gradient_is_the_derivative_and_finite_where_a_repetition_is_certain():
  rows = {n: a[:, :6] % 7 if n in ("tokens", "targets") else a[:, :6] for n, a in batch(2, 32).items()}
  normal = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
  params = {"hidden": normal(0, 2, 6, 3), "head": normal(1, 3, 7)}
  check_grads(jax.jit(lambda p: total(p, rows)), (params,), 1, modes=("rev",), rtol=0.02)
  sure = params | {"head": 1e3 * params["head"]}
  loss, grads = jax.jit(jax.value_and_grad(total))(sure, rows)
  assert np.isfinite(loss) and all(np.isfinite(g).all() for g in grads.values())


def test_memory_is_that_of_one_chunk():
  rows, V = batch(2, 64), tokenizer().vocab_size
  params = {"hidden": jnp.ones((2, 64, 3)), "head": jnp.ones((3, V))}
  largest = lambda chunk: max(sizes_in(jax.grad(lambda p: total(p, rows, chunk)), params))
  assert largest("auto") >= 2 * 64 * V and largest(16) <= 2 * 8 * V


def test_a_weight_that_cannot_be_is_refused():
  with pytest.raises(ConfigError, match=r"config\.objective\.alpha: got -1"):
    unlikelihood.build(alpha=-1.0)
