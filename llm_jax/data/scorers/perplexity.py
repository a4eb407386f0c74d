"""Difficulty by a model: the mean loss of a row under any checkpoint, an earlier or a smaller model.

The order is that of the perplexity, which is the exponential of this. The model must have the run's tokenizer.
"""

import numpy as np

from llm_jax.core.types import Batch
from llm_jax.data.scorers import Score, ScoringContext, row_means


def build(context: ScoringContext, *, checkpoint: str) -> Score:
  """Nats per target under the model.

  Args:
    checkpoint: the workdir of a run, or a Hugging Face folder.
  """
  losses = context.losses_of(checkpoint, "checkpoint")

  def score(rows: Batch) -> np.ndarray:
    return row_means(losses(rows), rows["weights"])
  return score
