"""Difficulty by length: the number of tokens of a row. With packing='pad' a row is a document, cut to the row."""

import numpy as np

from llm_jax.core.types import Batch
from llm_jax.data.scorers import Score, ScoringContext


def build(context: ScoringContext) -> Score:
  """Tokens that are not padding."""
  context.text()

  def score(rows: Batch) -> np.ndarray:
    return (rows["segment_ids"] > 0).sum(-1).astype(np.float64)
  return score
