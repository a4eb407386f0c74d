"""Difficulty by learnability: loss under a model minus loss under a reference (Mindermann et al. 2022, equation 3).

Large where the reference shows that a row can be learned and the model has not: negate it for most learnable first.
"""

import numpy as np

from llm_jax.core.types import Batch
from llm_jax.data.scorers import Score, ScoringContext, row_means


def build(context: ScoringContext, *, checkpoint: str, reference: str, most_learnable_first: bool = True) -> Score:
  """Excess loss of a row in nats per target.

  Args:
    checkpoint: workdir or Hugging Face folder of the model.
    reference: workdir or Hugging Face folder of the model trained further, or on clean data.
    most_learnable_first: rows with the largest excess count as the easiest.
  """
  losses, base = context.losses_of(checkpoint, "checkpoint"), context.losses_of(reference, "reference")

  def score(rows: Batch) -> np.ndarray:
    excess = row_means(losses(rows) - base(rows), rows["weights"])
    return -excess if most_learnable_first else excess
  return score
