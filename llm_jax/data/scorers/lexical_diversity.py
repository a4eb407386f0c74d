"""Difficulty by lexical diversity: MTLD, the mean length of a stretch of words that keeps a type-token ratio
(McCarthy and Jarvis 2010), forwards and backwards."""

import re
from collections.abc import Sequence

import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.data.scorers import Score, ScoringContext, texts

WORD = re.compile(r"\w+")


def stretches(words: Sequence[str], threshold: float) -> float:
  """Number of stretches in which the type-token ratio falls to the threshold; the last one counts in part."""
  seen: set[str] = set()
  count, full = 0, 0.0
  for word in words:
    seen.add(word)
    count += 1
    if len(seen) / count <= threshold:
      full, count, seen = full + 1.0, 0, set()
  rest = (1.0 - len(seen) / count) / (1.0 - threshold) if count else 0.0
  return full + rest


def mtld(text: str, threshold: float) -> float:
  """Words per stretch, the mean of both directions; the number of words where none repeats."""
  words = [w.lower() for w in WORD.findall(text)]
  one_way = [len(words) / max(stretches(order, threshold), 1.0) for order in (words, words[::-1])]
  return sum(one_way) / 2


def build(context: ScoringContext, *, threshold: float = 0.72) -> Score:
  """MTLD of a row's text.

  Args:
    threshold: type-token ratio at which a stretch ends.

  Raises:
    ConfigError: a threshold that is no ratio.
  """
  if not 0 < threshold < 1:
    raise ConfigError(f"{context.key}.threshold", f"got {threshold:g}", accepted="between 0 and 1")
  tokenizer = context.text()
  return lambda rows: np.array([mtld(t, threshold) for t in texts(tokenizer, rows)])
