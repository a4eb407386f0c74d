"""Rotary position embeddings (Su et al. 2021) with every published scaling, as tables of inverse frequencies.

`inverse_frequencies` gives (K / 2,) frequencies and the factor of cos and sin (yarn); `rotate` applies them in the
half-split layout of Llama checkpoints.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Rope:
  """theta: base; kind: 'default', 'linear', 'dynamic', 'llama3' or 'yarn'; options: the scaling's own numbers, with the
  names of Hugging Face's `rope_parameters`, as a tuple of pairs so that a config stays hashable."""

  theta: float = 10_000.0
  kind: str = "default"
  options: tuple[tuple[str, Any], ...] = ()


def inverse_frequencies(rope: Rope, width: int, length: int, trained_length: int) -> tuple[jax.Array, float]:
  """(K / 2,) float32 inverse frequencies and the factor on cos and sin.

  Args:
    rope: base and scaling. width: rotated head width K. length: longest position of this call plus one (dynamic).
    trained_length: max_position_embeddings.
  """
  base = rope.theta ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
  if rope.kind not in SCALINGS:
    raise ConfigError("rope", f"unknown scaling {rope.kind!r}", accepted=", ".join(sorted(SCALINGS)))
  return SCALINGS[rope.kind](base, rope, dict(rope.options), width, length, trained_length)


def _default(base, rope, options, width, length, trained_length):
  return base, 1.0


def _linear(base, rope, options, width, length, trained_length):
  return base / options["factor"], 1.0


def _dynamic(base, rope, options, width, length, trained_length):
  trained = options.get("original_max_position_embeddings") or trained_length
  ratio = options["factor"] * max(length, trained) / trained - (options["factor"] - 1)
  theta = rope.theta * ratio ** (width / (width - 2))
  return theta ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width), 1.0


def _llama3(base, rope, options, width, length, trained_length):
  factor, low, high = options["factor"], options["low_freq_factor"], options["high_freq_factor"]
  turns = options["original_max_position_embeddings"] * base / (2 * math.pi)
  blend = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
  return blend * base + (1 - blend) * base / factor, 1.0


def _yarn(base, rope, options, width, length, trained_length):
  """Peng et al. 2023, equations 16-23, with Hugging Face's rounding of the ramp's ends."""
  factor = options["factor"]
  trained = options.get("original_max_position_embeddings") or trained_length
  dimension = lambda turns: width * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))
  low, high = dimension(options.get("beta_fast") or 32), dimension(options.get("beta_slow") or 1)
  if options.get("truncate", True):
    low, high = math.floor(low), math.ceil(high)
  low, high = max(low, 0), min(high, width - 1)
  ramp = jnp.clip((jnp.arange(width // 2, dtype=jnp.float32) - low) / max(high - low, 1e-3), 0.0, 1.0)
  attention = options.get("attention_factor")
  if attention is None:
    grow = lambda scale, m=1.0: 1.0 if scale <= 1 else 0.1 * m * math.log(scale) + 1.0
    m, m_all = options.get("mscale"), options.get("mscale_all_dim")
    attention = grow(factor, m) / grow(factor, m_all) if m and m_all else grow(factor)
  return base / factor * ramp + base * (1 - ramp), attention


SCALINGS = {"default": _default, "linear": _linear, "dynamic": _dynamic, "llama3": _llama3, "yarn": _yarn}


def rotation(positions_BL: jax.Array, frequencies: jax.Array, factor: float = 1.0) -> tuple[jax.Array, jax.Array]:
  """cos and sin, (B, L, 1, K / 2) float32."""
  angles = positions_BL[..., None, None].astype(jnp.float32) * frequencies
  return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def rotate(x_BLHK: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotates the pairs (i, i + K/2), in float32."""
  first, second = jnp.split(x_BLHK.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
  return turned.astype(x_BLHK.dtype)


def rope_from_hf(config: Mapping[str, Any]) -> Rope:
  """The Rope that a Hugging Face config.json says, in the keys of transformers 4 or 5."""
  parameters = dict(config.get("rope_parameters") or {})
  if not parameters:
    parameters = dict(config.get("rope_scaling") or {})
    parameters["rope_theta"] = config.get("rope_theta", 10_000.0)
  theta = parameters.pop("rope_theta", config.get("rope_theta", 10_000.0))
  kind = parameters.pop("rope_type", parameters.pop("type", "default")) or "default"
  parameters.pop("type", None)
  return Rope(float(theta), kind, tuple(sorted((k, v) for k, v in parameters.items() if v is not None)))
