"""Classification of whole texts: cross-entropy between the network's scores and the label of each row."""

import dataclasses
from collections.abc import Callable

from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params
from llm_jax.objectives.labels import losses_of


@dataclasses.dataclass(frozen=True)
class Classification(Objective):
  """Cross-entropy in nats per text between scores (B, C) and labels (B,), with accuracy."""

  fields: tuple[str, ...] = ("tokens", "segment_ids", "labels", "weights")
  needs: tuple[str, ...] = ("classes",)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    real = (batch["segment_ids"] > 0).astype("int32")
    output = apply(params, input_ids=batch["tokens"], attention_mask=real, key=key)
    losses = losses_of(output.scores, batch["labels"], batch["weights"])
    return losses._replace(metrics=losses.metrics | output.metrics, auxiliary=output.auxiliary)


def build() -> Classification:
  """Labels of whole texts; the data serve 'labels', the model scores of as many classes."""
  return Classification()
