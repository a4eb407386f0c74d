"""Difficulty by compression: how little a row's text can be compressed, zlib bytes per byte."""

import zlib

import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.data.scorers import Score, ScoringContext, texts


def build(context: ScoringContext, *, level: int = 6) -> Score:
  """Compressed size over size; near 0 for repetitions, about 1 for noise.

  Args:
    level: of zlib, 1 (fast) to 9.

  Raises:
    ConfigError: another level.
  """
  if not 1 <= level <= 9:
    raise ConfigError(f"{context.key}.level", f"got {level}", accepted="1 to 9")
  tokenizer = context.text()

  def ratio(text: str) -> float:
    raw = text.encode("utf-8", "replace")
    return len(zlib.compress(raw, level)) / max(len(raw), 1)
  return lambda rows: np.array([ratio(t) for t in texts(tokenizer, rows)])


