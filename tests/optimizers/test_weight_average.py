"""The moving average of weights: closed forms of its three starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.optimizers import ema

SEEN = [np.float32(v) for v in (3.0, -1.0, 4.0, 1.5, 9.0)]


def run(start, first, decay=0.9):
  update = jax.jit(ema.update, static_argnames="start")
  average = {"w": jnp.float32(first)}
  for step, value in enumerate(SEEN):
    average = update(average, {"w": jnp.asarray(value)}, decay, step, start=start)
  return float(average["w"])


def test_debias_is_the_weighted_mean_of_what_was_seen_whatever_the_start():
  weights = 0.9 ** np.arange(len(SEEN))[::-1]
  want = np.average(SEEN, weights=weights)
  np.testing.assert_allclose([run("debias", 0.0), run("debias", 1e3)], want, rtol=1e-4)


def test_none_is_the_plain_recursion():
  average = 2.0
  for value in SEEN:
    average = 0.9 * average + 0.1 * value
  np.testing.assert_allclose(run("none", 2.0), average, rtol=1e-6)


def test_warmup_grows_to_the_decay():
  decays = [float(ema.effective_decay(0.99, t)) for t in (0, 1, 90, 10_000)]
  np.testing.assert_allclose(decays, [0.1, 2 / 11, 0.91, 0.99], rtol=1e-6)


@pytest.mark.parametrize("start", ["warmup", "debias", "none"])
def test_a_constant_stays_bit_for_bit_and_bfloat16_is_averaged_in_float32(start):
  params = {"w": jnp.full((3,), 1 / 3, jnp.bfloat16)}
  average = {"w": params["w"].astype(jnp.float32)}
  for step in range(5):
    after = ema.update(average, params, 0.999, step, start)
    assert after["w"].dtype == jnp.float32
    np.testing.assert_array_equal(after["w"], average["w"])
