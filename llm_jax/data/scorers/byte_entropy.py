"""Difficulty by byte entropy: bits per byte of a row's own byte frequencies, 0 to 8."""

import numpy as np

from llm_jax.data.scorers import Score, ScoringContext, texts


def entropy(text: str) -> float:
  """Shannon entropy of the UTF-8 bytes in bits; 0 for an empty text."""
  raw = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
  share = np.bincount(raw, minlength=256) / max(len(raw), 1)
  share = share[share > 0]
  return float(-(share * np.log2(share)).sum()) + 0.0


def build(context: ScoringContext) -> Score:
  """Entropy of the bytes of a row's text."""
  tokenizer = context.text()
  return lambda rows: np.array([entropy(t) for t in texts(tokenizer, rows)])
