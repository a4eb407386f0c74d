"""SimCSE: the loss in closed form, two readings that differ by dropout alone, rows of padding, and what a batch is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from test_objective_runs import BERT, config
from text_rows_fixture import batch

from llm_jax import experiment
from llm_jax.core.errors import ConfigError
from llm_jax.core.output import Output
from llm_jax.objectives import mix, simcse


def noisy(params, *, input_ids, key=None, **inputs):
  """A table of embeddings, with noise where there is a key."""
  hidden = params["table"][input_ids]
  return Output(hidden if key is None else hidden + jax.random.normal(key, hidden.shape))


@pytest.fixture
def params():
  return {"table": jax.random.normal(jax.random.key(0), (300, 8))}


def test_info_nce_is_its_closed_form_and_its_gradient_the_derivative():
  a, b = jax.random.normal(jax.random.key(0), (2, 5, 4))
  unit = lambda x: np.asarray(x, np.float64) / np.linalg.norm(np.asarray(x, np.float64), axis=-1, keepdims=True)
  cosine = unit(a) @ unit(b).T
  want = np.log(np.exp(cosine / 0.1).sum(1)) - np.diag(cosine) / 0.1
  found = jax.jit(lambda a, b: simcse.info_nce(a, b, jnp.ones(5, bool), temperature=0.1))(a, b)
  np.testing.assert_allclose(found.values, want, rtol=1e-5)
  told = {n: float(m.total / m.weight) for n, m in found.metrics.items()}
  np.testing.assert_allclose([told["accuracy"], told["positive_cosine"], told["negative_cosine"]],
                             [(cosine.argmax(1) == np.arange(5)).mean(), np.diag(cosine).mean(),
                              (cosine.sum() - np.trace(cosine)) / 20], rtol=1e-5)
  total = lambda a, b: simcse.info_nce(a, b, jnp.ones(5, bool), temperature=0.5).values.sum()
  check_grads(jax.jit(total), (a, b), 1, modes=("rev",), rtol=0.02)


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_padding_and_rows_of_padding_change_nothing(pooling, params):
  rows, objective = batch(4, 32, padding=6), simcse.build(pooling=pooling)
  cut = {n: a[:, :26] for n, a in rows.items()}
  more = {n: jnp.pad(a, ((0, 3), (0, 0))) for n, a in rows.items()}
  call = jax.jit(lambda rows: objective(noisy, params, rows, None, {}))
  want = call(rows)
  hidden = np.asarray(params["table"])[np.asarray(cut["tokens"])]
  embedding = {"mean": hidden.mean(1), "first": hidden[:, 0], "last": hidden[:, -1]}[pooling]
  closed = simcse.info_nce(embedding, embedding, jnp.ones(4, bool), temperature=0.05).values
  np.testing.assert_allclose(want.values, closed, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(call(cut).values, want.values, rtol=1e-5, atol=1e-5)
  padded = call(more)
  np.testing.assert_allclose(padded.values[:4], want.values, rtol=1e-5, atol=1e-5)
  assert not padded.weights[4:].any() and float(padded.weights.sum()) == 4
  for name, metric in padded.metrics.items():
    np.testing.assert_allclose(metric.total, want.metrics[name].total, rtol=1e-5, atol=1e-5)


def test_a_row_is_read_twice_in_training_and_once_in_evaluation(params):
  rows = batch(3, 32)
  def step(key):
    seen = []
    def shown(params, *, input_ids, **inputs):
      seen.append(input_ids)
      return noisy(params, input_ids=input_ids, **inputs)
    return simcse.build()(shown, params, rows, key, {}), seen
  (trained, [twice]), (tested, [once]) = (jax.jit(step)(key) for key in (jax.random.key(1), None))
  np.testing.assert_array_equal(twice, np.repeat(np.asarray(rows["tokens"]), 2, axis=0))
  np.testing.assert_array_equal(once, rows["tokens"])
  positive = [float(x.metrics["positive_cosine"].total) / 3 for x in (trained, tested)]
  assert positive[0] < 0.99 and abs(positive[1] - 1) < 1e-5 and trained.values.shape == tested.values.shape == (3,)


def test_micro_batches_are_refused_and_whole_batches_are_not():
  model = BERT | dict(head="lm", dropout=0.1)
  for objective in (dict(name="simcse"), dict(name="mix", parts=["masked_lm", "simcse"])):
    with pytest.raises(ConfigError, match=r"config\.train\.accumulate: 2 micro-batches"):
      experiment.build(config(model, objective, accumulate=2, mesh=dict(data=-1)))
  assert not mix.build(parts=["masked_lm"]).whole_batch


def test_knobs_that_cannot_be_are_refused():
  with pytest.raises(ConfigError, match=r"config\.objective\.temperature"):
    simcse.build(temperature=0.0)
  with pytest.raises(ConfigError, match=r"config\.objective\.pooling: 'first'"):
    simcse.build(form="causal", pooling="first")
