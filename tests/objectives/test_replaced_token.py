"""Replaced tokens: drawn from the generator, judged everywhere, and an original that was drawn is not replaced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from text_rows_fixture import batch, tokenizer

from llm_jax.core.errors import ConfigError
from llm_jax.core.output import Output
from llm_jax.objectives import replaced_token
from llm_jax.objectives.replaced_token import detection, filled

TOKENS, V = tokenizer(), 300


class Pair:
  """A generator with the scores params['table'] everywhere, a discriminator with the scores params['judge'] (B, L)."""

  def __init__(self):
    self.calls = {}

  def __call__(self, params, *, input_ids, method, key, **inputs):
    self.calls[method] = input_ids
    if method == "discriminator":
      return Output(scores=params["judge"] * jnp.ones(input_ids.shape))
    hidden = jnp.ones((*input_ids.shape, 1))
    return Output(hidden, lambda h: h * params["table"])


def test_the_generators_tokens_have_its_distribution():
  tokens = jnp.zeros((500, 32), jnp.int32)
  chosen = jnp.broadcast_to(jnp.arange(32) % 2 == 1, tokens.shape)
  logits = jnp.log(jnp.array([0.5, 0.3, 0.2]))
  output = Output(jnp.ones((500, 32, 1)), lambda h: h * logits)
  keys = jax.random.split(jax.random.key(0), 500)
  for temperature in (1.0, 0.5):
    draw = jax.jit(lambda chunk, t=temperature: filled(output, tokens - 1, chosen, 20, keys, t, chunk),
                   static_argnums=0)
    drawn = np.asarray(draw("auto"))
    assert (drawn[:, ::2] == -1).all()
    want = np.asarray(jax.nn.softmax(logits / temperature))
    np.testing.assert_allclose(np.bincount(drawn[:, 1::2].ravel()) / 8000, want, atol=0.02)
    np.testing.assert_array_equal(drawn, draw(3 * 500))  # in chunks the same


def test_both_losses_and_that_a_drawn_original_is_no_replacement():
  rows = batch(8, 48, padding=6)
  space = ord("e")
  params = {"table": jnp.where(jnp.arange(V) == space, 50.0, 0.0), "judge": jnp.float32(0.7)}
  objective = replaced_token.build(weight=50.0).for_tokenizer(TOKENS)
  def step(*given):
    pair = Pair()
    return objective(pair, *given, {}), pair.calls
  losses, calls = jax.jit(step)(params, rows, jax.random.key(0))
  before, after = np.asarray(rows["tokens"]), np.asarray(calls["discriminator"])
  masked = np.asarray(calls["generator"]) == TOKENS.special["mask"]
  assert masked.any() and (after[masked] == space).all()
  real, replaced = np.asarray(rows["segment_ids"]) > 0, after != before
  assert replaced.sum() < masked.sum() + 8 * 3  # where the text had an e, nothing was replaced
  m = losses.metrics
  want = np.where(replaced, np.log1p(np.exp(-0.7)), np.log1p(np.exp(0.7)))[real].mean()
  mean = lambda name: float(m[name].total / m[name].weight)
  assert abs(mean("discriminator_loss") - want) < 1e-5 and m["discriminator_loss"].weight == real.sum()
  assert abs(mean("discriminator_replaced") - replaced[real].mean()) < 1e-6
  assert abs(mean("discriminator_accuracy") - replaced[real].mean()) < 1e-6
  total = float((losses.values * losses.weights).sum() / losses.weights.sum())
  assert abs(total - mean("generator_loss") - 50 * want) < 1e-3


def test_nothing_flows_back_through_the_draw():
  rows = batch(4, 32)
  objective = replaced_token.build().for_tokenizer(TOKENS)
  params = {"table": jnp.zeros(V), "judge": jnp.float32(0.3)}
  def total(params, part):
    losses = objective(Pair(), params, rows, jax.random.key(1), {})
    half = losses.values.shape[1] // 2
    keep = slice(half, None) if part == "judge" else slice(0, half)
    return (losses.values[:, keep] * losses.weights[:, keep]).sum()
  gradient = jax.jit(jax.grad(total), static_argnums=1)
  grads = gradient(params, "judge")
  assert (grads["table"] == 0).all() and grads["judge"] != 0
  assert (gradient(params, "table")["table"] != 0).any()


def test_detection_counts_real_tokens_alone():
  losses = detection(jnp.array([[3.0, -3.0, 9.0]]), jnp.array([[True, True, True]]), jnp.array([[True, True, False]]))
  np.testing.assert_allclose(losses.values[0, :2], np.log1p(np.exp([-3.0, 3.0])), rtol=1e-6)
  assert losses.weights.tolist() == [[1, 1, 0]] and losses.metrics["accuracy"].total == 1


def test_what_cannot_be_is_refused():
  with pytest.raises(ConfigError, match="temperature"):
    replaced_token.build(temperature=0.0)
