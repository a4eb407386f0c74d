"""Rotary positions: distances are all that counts, and every scaling has its published values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.layers import doors
from llm_jax.layers.positions import Rope, inverse_frequencies, rotate, rotation

WIDTH = 16
BASE = 10_000.0 ** (-np.arange(0, WIDTH, 2) / WIDTH)


def frequencies(kind, length=1, trained=64, theta=10_000.0, **options):
  return inverse_frequencies(Rope(theta, kind, tuple(sorted(options.items()))), WIDTH, length, trained)


def test_scores_depend_on_the_distance_alone():
  q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, WIDTH))
  turn = lambda x, position: rotate(x, *rotation(jnp.asarray([[position]]), frequencies("default")[0]))
  score = lambda i, j: float((turn(q, i) * turn(k, j)).sum())
  assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
  assert abs(score(9, 4) - score(9, 5)) > 1e-3


def test_halves_are_the_pairs_and_lengths_are_kept():
  x = jnp.zeros((1, 1, 1, WIDTH)).at[..., 2].set(1.0)
  turned = rotate(x, *rotation(jnp.asarray([[3]]), frequencies("default")[0]))[0, 0, 0]
  assert turned[2] == pytest.approx(math.cos(3 * BASE[2]), abs=1e-6)
  assert turned[2 + WIDTH // 2] == pytest.approx(math.sin(3 * BASE[2]), abs=1e-6)
  assert float(jnp.linalg.norm(turned)) == pytest.approx(1.0, abs=1e-6)


def test_linear_divides_positions():
  np.testing.assert_allclose(frequencies("linear", factor=4.0)[0], BASE / 4, rtol=1e-6)


def test_dynamic_keeps_the_base_until_the_trained_length_and_grows_it_after():
  np.testing.assert_allclose(frequencies("dynamic", length=64, factor=2.0)[0], BASE, rtol=1e-6)
  grown = 10_000.0 * (2.0 * 128 / 64 - 1.0) ** (WIDTH / (WIDTH - 2))
  want = grown ** (-np.arange(0, WIDTH, 2) / WIDTH)
  np.testing.assert_allclose(frequencies("dynamic", length=128, factor=2.0)[0], want, rtol=1e-5)
  np.testing.assert_allclose(jax.jit(lambda n: frequencies("dynamic", length=n, factor=2.0)[0])(128), want, rtol=1e-5)


def test_llama3_keeps_short_waves_divides_long_ones_and_blends_between():
  said = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=100)
  got = frequencies("llama3", **said)[0]
  waves = 2 * math.pi / BASE
  np.testing.assert_allclose(got[waves < 25], BASE[waves < 25], rtol=1e-5)
  np.testing.assert_allclose(got[waves > 100], BASE[waves > 100] / 8, rtol=1e-5)
  between = (waves > 25) & (waves < 100)
  assert between.any() and ((got < BASE) & (got > BASE / 8))[between].all()


def test_yarn_extrapolates_fast_dimensions_interpolates_slow_ones_and_warms_attention():
  got, factor = frequencies("yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=8, beta_slow=1)
  assert got[0] == pytest.approx(BASE[0]) and got[-1] == pytest.approx(BASE[-1] / 4)
  assert factor == pytest.approx(0.1 * math.log(4.0) + 1.0)
  assert frequencies("yarn", factor=4.0, attention_factor=0.5)[1] == 0.5
  assert frequencies("yarn", factor=4.0, mscale=0.5, mscale_all_dim=1.0)[1] == pytest.approx(
      (0.05 * math.log(4) + 1) / (0.1 * math.log(4) + 1))


def test_an_unknown_scaling_or_a_missing_number_is_named():
  with pytest.raises(ConfigError, match="longrope"):
    frequencies("longrope")
  with pytest.raises(ConfigError, match="factor"):
    frequencies("linear")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_whole_heads_turn_as_halves_do(dtype, monkeypatch):
  """The form of a TPU, with its own derivative."""
  x = jax.random.normal(jax.random.key(0), (2, 5, 3, 8)).astype(dtype)
  angles = rotation(jnp.arange(10).reshape(2, 5), jnp.asarray([1.0, 0.3, 0.1, 0.01]))
  def turned(x):
    y, pull_back = jax.vjp(lambda x: rotate(x, *angles), x)
    return y, *pull_back(jnp.flip(x))
  wanted = jax.jit(turned)(x)
  monkeypatch.setattr(doors, "platform", lambda: "tpu")
  for found, plain in zip(jax.jit(lambda x: turned(x))(x), wanted):
    np.testing.assert_allclose(found.astype(jnp.float32), plain.astype(jnp.float32), rtol=1e-6, atol=1e-6)
