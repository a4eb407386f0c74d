"""Distillation of causal models: the divergence in closed form, what it is at its ends, and what it holds in memory."""

import jax
import numpy as np
import pytest
from jax.test_util import check_grads
from text_rows_fixture import batch, sizes_in, tokenizer

from llm_jax.core.errors import ConfigError
from llm_jax.core.output import Output
from llm_jax.objectives import causal_distillation
from llm_jax.objectives.divergence import divergence

V, D = 262, 6


def network(name: str):
  """A table and a head, whose arrays begin with `name`."""
  return lambda params, *, input_ids, key=None, **inputs: Output(params[f"{name}.table"][input_ids],
                                                                 lambda h: h @ params[f"{name}.head"])


@pytest.fixture
def params():
  keys = jax.random.split(jax.random.key(0), 4)
  return {"student.table": jax.random.normal(keys[0], (V, D)), "student.head": jax.random.normal(keys[1], (D, V)),
          "teacher.table": jax.random.normal(keys[2], (V, D)), "teacher.head": jax.random.normal(keys[3], (D, V + 9))}


def objective(**knobs):
  """Of a teacher whose table is padded beyond the vocabulary."""
  made = causal_distillation.build(teacher="t", **knobs).for_tokenizer(tokenizer())
  return made.with_reference(network("teacher"))


def mean(losses) -> float:
  return float((losses.values * losses.weights).sum() / losses.weights.sum())


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_loss_is_its_closed_form_in_one_piece_and_in_chunks(beta, params):
  rows, t = batch(4, 32, padding=4), 1.7
  ids, real = np.asarray(rows["tokens"]), np.asarray(rows["weights"]) > 0
  score = lambda name: np.asarray(params[f"{name}.table"] @ params[f"{name}.head"], np.float64)[ids][real][:, :V]
  p, q = (np.exp(x / t) / np.exp(x / t).sum(-1, keepdims=True) for x in (score("teacher"), score("student")))
  kl = lambda a, b: (a * np.log(a / b)).sum(-1).mean()
  m = beta * p + (1 - beta) * q
  soft = {0.0: kl(p, q), 1.0: kl(q, p)}.get(beta, beta * kl(p, m) + (1 - beta) * kl(q, m)) * t**2
  log_q = score("student") - np.log(np.exp(score("student")).sum(-1, keepdims=True))
  hard = -np.take_along_axis(log_q, np.asarray(rows["targets"])[real][:, None], 1).mean()
  for chunk in ("auto", 20):
    made = objective(alpha=0.7, beta=beta, temperature=t, chunk=chunk)
    found = jax.jit(lambda params, made=made: made(network("student"), params, rows, None, {}))(params)
    np.testing.assert_allclose(mean(found), 0.7 * soft + 0.3 * hard, rtol=1e-5)
    np.testing.assert_allclose([m.total / m.weight for m in (found.metrics["soft_loss"], found.metrics["hard_loss"])],
                               [soft, hard], rtol=1e-5)


def test_between_the_ends_it_tends_to_them_and_its_gradient_is_the_derivative():
  student, teacher = jax.random.normal(jax.random.key(0), (2, 5, 9))
  for tends, end in ((divergence(student, teacher, beta=1e-3) / 1e-3, 0.0),
                     (divergence(student, teacher, beta=1 - 1e-3) / 1e-3, 1.0)):
    np.testing.assert_allclose(tends, divergence(student, teacher, beta=end), rtol=0.01)
  for beta in (0.0, 0.4, 1.0):
    check_grads(jax.jit(lambda s, beta=beta: divergence(s, teacher, beta=beta, temperature=2.0)), (student,), 1,
                modes=("rev",), rtol=0.02)


def test_the_teacher_gets_no_gradient_and_a_twin_has_nothing_to_learn(params):
  rows = batch(2, 32)
  params |= {n: params[n.replace("student", "teacher")][..., :V] for n in params if n.startswith("student")}
  for beta in (0.0, 0.5, 1.0):
    total = lambda params, beta=beta: mean_of(objective(alpha=1.0, beta=beta), params, rows)
    loss, grads = jax.jit(jax.value_and_grad(total))(params)
    assert abs(float(loss)) < 1e-5 and all(abs(np.asarray(g)).max() < 1e-5 for g in grads.values())
    assert not np.asarray(grads["teacher.head"]).any()


def mean_of(made, params, rows):
  losses = made(network("student"), params, rows, None, {})
  return (losses.values * losses.weights).sum() / losses.weights.sum()


def test_the_logits_of_one_chunk_are_held_at_a_time(params):
  rows = batch(2, 64)
  largest = lambda chunk: max(sizes_in(jax.grad(lambda p: mean_of(objective(chunk=chunk), p, rows)), params))
  assert largest("auto") >= 2 * 64 * V and largest(16) <= 2 * 8 * (V + 9)


def test_knobs_that_cannot_be_are_refused():
  for knobs in (dict(beta=1.5), dict(temperature=0.0), dict(alpha=0.0)):
    with pytest.raises(ConfigError, match=rf"config\.objective\.{next(iter(knobs))}: "):
      objective(**knobs)
