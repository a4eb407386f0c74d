"""Difficulty by rarity: -log p(token) under the training text's unigram frequencies (Platanios et al. 2019, eq. 2)."""

from typing import Literal

import numpy as np

from llm_jax.core.types import Batch
from llm_jax.data.scorers import Score, ScoringContext


def build(context: ScoringContext, *, reduce: Literal["mean", "sum"] = "mean") -> Score:
  """Rarity of a row's tokens in nats.

  Args:
    reduce: 'sum' over the row as published, where length leaks in, or 'mean' over its tokens.
  """
  counts = np.zeros(context.text().vocab_size, np.int64)
  for stream in context.streams:
    counts += np.bincount(stream.tokens, minlength=len(counts))
  surprise = -np.log(np.maximum(counts, 1) / max(counts.sum(), 1))

  def score(rows: Batch) -> np.ndarray:
    real = rows["segment_ids"] > 0
    total = (surprise[rows["tokens"]] * real).sum(-1)
    return total / np.maximum(real.sum(-1), 1) if reduce == "mean" else total
  return score
