"""A range test with a known answer is read correctly, and one without an answer is refused."""

import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.optimizers.range_test import analyse

RATES = np.logspace(-6, 1, 141)


def curve(falls_at=1e-3):
  """Falls fastest per decade at `falls_at`, is lowest between there and 1, then explodes."""
  x = np.log10(RATES)
  return 5 - 3 / (1 + np.exp(-4 * (x - np.log10(falls_at)))) + np.exp(6 * x)


def test_reads_a_known_curve():
  found = analyse(zip(RATES, curve()), smoothing=0.0)
  assert abs(np.log10(found.steepest) + 3) < 0.1
  assert 10**-1.5 < found.minimum < 1
  assert found.suggested == found.steepest < found.minimum / 10
  assert found.diverged is not None and found.diverged > found.minimum
  assert len(found.rates) == len(found.losses) < len(RATES)


def test_a_fall_just_before_the_minimum_is_not_trusted():
  found = analyse(zip(RATES, curve(falls_at=0.1)), smoothing=0.0)
  assert found.suggested == found.minimum / 10 < found.steepest


def test_smoothing_survives_noise():
  noisy = curve() + 0.05 * np.random.default_rng(0).normal(size=len(RATES))
  assert 1e-4 < analyse(zip(RATES, noisy)).suggested < 1e-1


def test_a_nan_ends_the_curve():
  losses = np.where(RATES > 0.5, np.nan, curve())
  found = analyse(zip(RATES, losses), smoothing=0.0)
  assert found.diverged is not None and 0.5 < found.diverged < 0.6


@pytest.mark.parametrize("records", [
    [(1e-3, 2.0)] * 20, [(1e-3, 2.0), (2e-3, 1.9)], list(zip(RATES, np.linspace(1, 1.9, len(RATES)))), [],
    list(zip(RATES, np.full(len(RATES), np.nan))),
])
def test_what_says_nothing_is_refused(records):
  with pytest.raises(ConfigError):
    analyse(records)
