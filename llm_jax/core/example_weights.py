"""How much each example counts, as one more field of a batch: a learner that weighs examples puts it in, the train step
multiplies every loss of an example by it, and no objective knows. So it works with objectives that choose their own
targets, too.
"""

import jax

from llm_jax.core.types import Batch, Losses

FIELD = "example_weights"


def scaled(examples: Batch, scale: jax.Array) -> Batch:
  """The examples, each of which counts `scale` (B,) times as much."""
  return {**examples, FIELD: scale * examples[FIELD] if FIELD in examples else scale}


def applied(losses: Losses, batch: Batch) -> Losses:
  """The losses with the weights of each example multiplied by the batch's factor, if it has one."""
  if FIELD not in batch:
    return losses
  factor = batch[FIELD].reshape(-1, *(1,) * (losses.weights.ndim - 1))
  return losses._replace(weights=losses.weights * factor.astype(losses.weights.dtype))
