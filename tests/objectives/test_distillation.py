"""Distillation: its three losses in closed form, a teacher that stays as it is, and a run from a teacher's workdir."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from text_rows_fixture import batch, tokenizer

from llm_jax.core.errors import ConfigError
from llm_jax.core.output import Output
from llm_jax.objectives import distillation, masked_lm, mix

TOKENS, V, D = tokenizer(), 262, 6


def network(name: str):
  """A network of one table and one head, whose arrays begin with `name`."""
  def apply(params, *, input_ids, key=None, **inputs):
    return Output(params[f"{name}.table"][input_ids], lambda h: h @ params[f"{name}.head"])
  return apply


@pytest.fixture
def params():
  keys = jax.random.split(jax.random.key(0), 4)
  return {"student.table": jax.random.normal(keys[0], (V, D)), "student.head": jax.random.normal(keys[1], (D, V)),
          "teacher.table": jax.random.normal(keys[2], (V, D)), "teacher.head": jax.random.normal(keys[3], (D, V))}


def test_the_three_losses_and_their_sum(params):
  rows, key = batch(4, 32, padding=4), jax.random.key(1)
  objective = distillation.build(teacher="t", temperature=2.0, masked=2.0, soft=5.0, cosine=1.0).for_tokenizer(TOKENS)
  seen = []
  def student(params, **inputs):
    seen.append(inputs["input_ids"])
    return network("student")(params, **inputs)
  distil = objective.with_reference(network("teacher"))
  losses, seen = jax.jit(lambda *given: (distil(student, *given, {}), seen))(params, rows, key)
  ids, real = np.asarray(seen[0]), np.asarray(rows["segment_ids"]) > 0
  hidden = {n: np.asarray(params[f"{n}.table"])[ids][real] for n in ("student", "teacher")}
  log = {n: np.asarray(jax.nn.log_softmax(h @ np.asarray(params[f"{n}.head"]) / 2)) for n, h in hidden.items()}
  soft = 4 * (np.exp(log["teacher"]) * (log["teacher"] - log["student"])).sum(-1).mean()
  norm = lambda h: h / np.linalg.norm(h, axis=-1, keepdims=True)
  cosine = 1 - (norm(hidden["student"]) * norm(hidden["teacher"])).sum(-1).mean()
  means = {n: float(m.total / m.weight) for n, m in losses.metrics.items()}
  np.testing.assert_allclose([means["soft_loss"], means["cosine_loss"]], [soft, cosine], rtol=1e-5)
  alone = masked_lm.build().for_tokenizer(TOKENS)
  plain = jax.jit(lambda *given: alone(network("student"), *given, {}))(params, rows, key)
  np.testing.assert_allclose(means["masked_lm_loss"], (plain.values * plain.weights).sum() / plain.weights.sum(), 1e-5)
  total = (losses.values * losses.weights).sum() / losses.weights.sum()
  np.testing.assert_allclose(total, 2 * means["masked_lm_loss"] + 5 * soft + cosine, rtol=1e-5)


def test_the_teacher_gets_no_gradient_and_a_twin_costs_nothing(params):
  rows = batch(2, 32)
  objective = distillation.build(teacher="t").for_tokenizer(TOKENS).with_reference(network("teacher"))
  def total(params):
    losses = objective(network("student"), params, rows, jax.random.key(0), {})
    return (losses.values * losses.weights).sum(), losses.metrics
  twin = params | {n: params[n.replace("student", "teacher")] for n in params if n.startswith("student")}
  grads, metrics = jax.jit(jax.grad(total, has_aux=True))(twin)
  assert (grads["teacher.table"] == 0).all() and (grads["teacher.head"] == 0).all()
  assert abs(float(metrics["soft_loss"].total)) < 1e-3 and abs(float(metrics["cosine_loss"].total)) < 1e-3


def test_widths_and_knobs_that_cannot_be_are_refused(params):
  params["teacher.table"] = jnp.ones((V, D + 1))
  params["teacher.head"] = jnp.ones((D + 1, V))
  objective = distillation.build(teacher="t").for_tokenizer(TOKENS).with_reference(network("teacher"))
  with pytest.raises(ConfigError, match="width is 6, the teacher's 7"):
    objective(network("student"), params, batch(2, 32), None, {})
  narrow = distillation.build(teacher="t", cosine=0.0).for_tokenizer(TOKENS).with_reference(network("teacher"))
  assert "cosine_loss" not in narrow(network("student"), params, batch(2, 32), None, {}).metrics
  with pytest.raises(ConfigError, match="temperature"):
    distillation.build(teacher="t", temperature=0.0)
  with pytest.raises(ConfigError, match="several teachers"):
    mix.build(parts=[dict(name="distillation", teacher=t) for t in "ab"])
