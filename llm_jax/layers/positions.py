"""Rotary position embeddings (Su et al. 2021) with every published scaling, as tables of inverse frequencies.

`inverse_frequencies` gives (K / 2,) frequencies and the factor of cos and sin (yarn); `rotate` applies them in the
half-split layout of Llama checkpoints.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core.errors import ConfigError, unknown_name
from llm_jax.layers.doors import tpu_forms


@dataclasses.dataclass(frozen=True)
class Rope:
  """theta: base; kind: 'default', 'linear', 'dynamic', 'llama3' or 'yarn'; options: the scaling's own numbers, with the
  names of Hugging Face's `rope_parameters`, as a tuple of pairs so that a config stays hashable."""

  theta: float = 10_000.0
  kind: str = "default"
  options: tuple[tuple[str, Any], ...] = ()


def inverse_frequencies(rope: Rope, width: int, length: jax.Array | int,
                        trained_length: int) -> tuple[jax.Array | np.ndarray, float]:
  """(K / 2,) float32 inverse frequencies and the factor on cos and sin.

  Args:
    rope: base and scaling.
    width: rotated head width K.
    length: longest position of this call plus one; read by 'dynamic' alone, may be traced.
    trained_length: max_position_embeddings.

  Raises:
    ConfigError: an unknown scaling, or a number that it needs is not given.
  """
  if rope.kind not in SCALINGS:
    raise unknown_name("rope", rope.kind, list(SCALINGS), what="scaling")
  try:
    return SCALINGS[rope.kind](rope.theta, dict(rope.options), width, length, trained_length)
  except KeyError as e:
    raise ConfigError("rope", f"scaling {rope.kind!r} needs {e}") from None


def _powers(theta: Any, width: int) -> Any:
  """theta ** (-2 i / K) in float32, as the reference computes it."""
  return np.float32(1.0) / theta ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width))


def _default(theta, options, width, length, trained_length):
  return _powers(np.float32(theta), width), 1.0


def _linear(theta, options, width, length, trained_length):
  """Positions divided by `factor` (Chen et al. 2023)."""
  return _powers(np.float32(theta), width) / np.float32(options["factor"]), 1.0


def _dynamic(theta, options, width, length, trained_length):
  """The base grows once the sequence is longer than trained (NTK-aware, 2023)."""
  ratio = options["factor"] * jnp.maximum(length, trained_length) / trained_length - (options["factor"] - 1)
  return _powers(jnp.float32(theta) * ratio ** (width / (width - 2)), width), 1.0


def _llama3(theta, options, width, length, trained_length):
  """Three bands by wavelength: kept, blended, divided (Llama 3.1)."""
  factor, low, high = options["factor"], options["low_freq_factor"], options["high_freq_factor"]
  trained = options.get("original_max_position_embeddings") or trained_length
  base = _powers(np.float32(theta), width)
  blend = np.clip((trained * base / np.float32(2 * math.pi) - low) / (high - low), 0.0, 1.0)
  return (blend * base + (1 - blend) * base / factor).astype(np.float32), 1.0


def _yarn(theta, options, width, length, trained_length):
  """Peng et al. 2023, equations 16-23, with the reference's rounding of the ramp's ends."""
  trained = options.get("original_max_position_embeddings") or trained_length
  factor = options["factor"] if options.get("factor") else trained_length / trained
  dimension = lambda turns: width * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))
  low, high = dimension(options.get("beta_fast") or 32), dimension(options.get("beta_slow") or 1)
  if options.get("truncate", True):
    low, high = math.floor(low), math.ceil(high)
  low, high = max(low, 0), min(high, width - 1)
  span = high - low if high != low else 1e-3
  ramp = np.clip((np.arange(width // 2, dtype=np.float32) - low) / np.float32(span), 0.0, 1.0)
  base = _powers(np.float32(theta), width)
  return (base / factor * ramp + base * (1 - ramp)).astype(np.float32), _yarn_factor(options, factor)


def _yarn_factor(options, factor):
  """Factor on cos and sin: the temperature of equation 22."""
  if options.get("attention_factor") is not None:
    return float(options["attention_factor"])
  grow = lambda m: 1.0 if factor <= 1 else 0.1 * m * math.log(factor) + 1.0
  m, m_all = options.get("mscale"), options.get("mscale_all_dim")
  return grow(m) / grow(m_all) if m and m_all else grow(1.0)


SCALINGS = {"default": _default, "linear": _linear, "dynamic": _dynamic, "llama3": _llama3, "yarn": _yarn}


def rotation(positions_BL: jax.Array, frequencies: jax.Array, factor: float = 1.0) -> tuple[jax.Array, jax.Array]:
  """cos and sin, (B, L, 1, K / 2) float32."""
  angles = positions_BL[..., None, None].astype(jnp.float32) * frequencies
  return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def rotate(x_BLHK: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotates the pairs (i, i + K/2), in float32."""
  if tpu_forms():
    whole = lambda first, second: jnp.concatenate([first, second], axis=-1)
    return _rotate_whole(x_BLHK, whole(cos, cos), whole(-sin, sin))
  first, second = jnp.split(x_BLHK.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
  return turned.astype(x_BLHK.dtype)


@jax.custom_vjp
def _rotate_whole(x_BLHK: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """As `rotate`, on whole heads: cos and sin (B, L, 1, K), the first half of sin negative. The halves change places by
  a product with a permutation, since a TPU cuts and joins arrays within its lanes one half at a time; backwards it is
  the rotation by the negative angle."""
  K = x_BLHK.shape[-1]
  swap_KK = jnp.roll(jnp.eye(K, dtype=x_BLHK.dtype), K // 2, axis=1)
  precision = None if x_BLHK.dtype == jnp.bfloat16 else "highest"  # nothing is rounded
  swapped = jnp.einsum("blhk,kj->blhj", x_BLHK, swap_KK, precision=precision, preferred_element_type=jnp.float32)
  return (x_BLHK.astype(jnp.float32) * cos + swapped * sin).astype(x_BLHK.dtype)


def _rotate_back(angles: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, None, None]:
  cos, sin = angles
  return _rotate_whole(gradient, cos, -sin), None, None  # angles come from positions, which are whole numbers


_rotate_whole.defvjp(lambda x, cos, sin: (_rotate_whole(x, cos, sin), (cos, sin)), _rotate_back)
