"""Schedules equal their closed forms, have no jumps, and are the same function on numbers and on traced steps."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.optimizers.schedules import DECAYS, schedule

P, T, W, E = 4e-3, 1000, 100, 0.2

FORMS = {
    "cosine": lambda p, t: E + (1 - E) * (1 + math.cos(math.pi * p)) / 2,
    "linear": lambda p, t: 1 + (E - 1) * p,
    "rsqrt": lambda p, t: max(E, math.sqrt(W / t)),
    "constant": lambda p, t: 1.0,
    "wsd": lambda p, t: E + (1 - E) * (1 - math.sqrt(max(0.0, (t - 800) / 200))),
}


@pytest.mark.parametrize("decay", FORMS)
@pytest.mark.parametrize("warmup", [W, W / T])
def test_closed_form(decay, warmup):
  rate = schedule(peak=P, total=T, warmup=warmup, decay=decay, end=E)
  for t in (0, 1, W - 1):
    np.testing.assert_allclose(rate(t), P * (t + 1) / (W + 1), rtol=1e-6)
  for t in (W, W + 1, 550, 799, 800, 801, 900, T - 1, T):
    np.testing.assert_allclose(rate(t), P * FORMS[decay]((t - W) / (T - W), t), rtol=1e-5, err_msg=str(t))
  assert rate(T + 5000) == rate(T)


@pytest.mark.parametrize("decay", FORMS)
def test_warmup_ends_at_the_peak_and_decay_at_the_floor(decay):
  rate = schedule(peak=P, total=T, warmup=W, decay=decay, end=E)
  np.testing.assert_allclose(rate(W), P, rtol=1e-6)
  floor = {"constant": P, "rsqrt": P * math.sqrt(W / T)}.get(decay, P * E)
  np.testing.assert_allclose(rate(T), floor, rtol=1e-5)


def test_halving_is_a_staircase_from_the_start_of_the_cooldown_on():
  """Zaremba et al. 2014: 13 epochs, halved in each after the fourth."""
  rate = schedule(peak=1.0, total=130, decay="halve", cooldown=90, halvings=9)
  np.testing.assert_allclose([rate(t) for t in (0, 39, 40, 49, 50, 129, 200)],
                             [1, 1, 0.5, 0.5, 0.25, 0.5**9, 0.5**9])


@pytest.mark.parametrize("decay", [d for d in DECAYS if d != "halve"])
def test_no_jumps_and_never_above_the_peak(decay):
  warmup = 0 if decay == "range_test" else W
  rate = schedule(peak=P, total=T, warmup=warmup, decay=decay, cooldown_shape="linear")
  rates = rate(np.arange(2 * T))
  assert np.abs(np.diff(rates)).max() < 0.02 * P
  assert rates.min() > 0 and rates.max() <= P * (1 + 1e-6)
  assert rates.shape == (2 * T,) and rates.dtype == np.float32


def test_range_test_rises_by_equal_factors_up_to_the_peak():
  rates = schedule(peak=10.0, total=101, decay="range_test", end=1e-8)(np.arange(101))
  np.testing.assert_allclose([rates[0], rates[50], rates[100]], [1e-7, 1e-3, 10.0], rtol=1e-5)
  np.testing.assert_allclose(rates[1:] / rates[:-1], 10**0.08, rtol=1e-4)


@pytest.mark.parametrize("decay", DECAYS)
def test_traced_and_plain_steps_agree(decay):
  rate = schedule(peak=P, total=T, warmup=0 if decay == "range_test" else W, decay=decay)
  steps = np.arange(0, 1200, 7)
  traced = jax.jit(jax.vmap(rate))(jnp.asarray(steps))
  assert traced.dtype == jnp.float32
  np.testing.assert_allclose(traced, rate(steps), rtol=2e-5)


def test_nanogpt_schedule():
  """nanoGPT's get_lr with its Shakespeare settings, for golden steps."""
  rate = schedule(peak=1e-3, total=2000, warmup=100, end=0.1)
  want = [1e-3 / 101, 1e-1 / 101, 5.5e-4, 1e-4]
  np.testing.assert_allclose([rate(0), rate(99), rate(1050), rate(2000)], want, rtol=1e-5)


@pytest.mark.parametrize(("knobs", "path"), [
    (dict(decay="cosin"), "decay"), (dict(peak=0.0), "peak"), (dict(peak=float("nan")), "peak"), (dict(end=1.5), "end"),
    (dict(warmup=-1), "warmup"), (dict(warmup=1.5), "warmup"), (dict(warmup=2000), "warmup"),
    (dict(decay="rsqrt"), "warmup"), (dict(decay="range_test", warmup=10), "warmup"),
    (dict(decay="range_test", end=0.0), "end"), (dict(decay="wsd", warmup=900, cooldown=0.5), "warmup"),
    (dict(decay="wsd", cooldown=-3), "cooldown"), (dict(total=0), "horizon"),
])
def test_what_cannot_be_is_refused_by_name(knobs, path):
  with pytest.raises(ConfigError) as error:
    schedule(**(dict(peak=P, total=T) | knobs))
  assert error.value.key == f"config.optimizer.{path}"
