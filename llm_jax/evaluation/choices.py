"""Multiple choice: which of several answers does the model find likeliest? Rank classification of Min et al. 2022.

Every query comes once with each answer in the answer's place. The score of an answer is the mean loss of what is asked
for; the choice is the lowest. Direct, that is the answer given the passage; channel, the passage given the answer.
"""

import jax.numpy as jnp

from llm_jax.core.types import Batch, Loss, Losses, Mean


def rows_of(batch: Batch) -> Batch:
  """Queries (Q, C, ...) as rows (Q * C, ...), without 'answer'."""
  return {name: a.reshape(-1, *a.shape[2:]) for name, a in batch.items() if name != "answer"}


def judged(losses: Losses, batch: Batch) -> Loss:
  """The loss of the right answers per token, and `accuracy` of the choices.

  losses: of `rows_of(batch)`. batch: 'answer' (Q,), the number of the right one. A query whose right answer has no
  weight does not count; an answer without weight is not chosen.
  """
  queries, answers = batch["weights"].shape[:2]
  weights = losses.weights.reshape(queries, answers, -1)
  totals_QC, weights_QC = (losses.values.reshape(weights.shape) * weights).sum(-1), weights.sum(-1)
  mean_QC = jnp.where(weights_QC > 0, totals_QC / jnp.maximum(weights_QC, 1e-8), jnp.inf)
  right_QC = jnp.arange(answers) == batch["answer"][:, None]
  counts = (weights_QC * right_QC).sum(-1) > 0
  hits = (mean_QC.argmin(-1) == batch["answer"]) & counts
  return Loss((totals_QC * right_QC).sum(), (weights_QC * right_QC).sum(),
              {"accuracy": Mean(hits.sum().astype(jnp.float32), counts.sum().astype(jnp.float32))})
