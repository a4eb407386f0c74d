"""Sentence order prediction: do two neighbouring texts stand in the right order? (Lan et al. 2020, section 3.1)"""

import dataclasses
from collections.abc import Callable

from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params, Vocabulary
from llm_jax.objectives import pairs
from llm_jax.objectives.text_rows import two_keys


@dataclasses.dataclass(frozen=True)
class SentenceOrder(Objective):
  """One value per row, in nats; metric `accuracy`. Half of the pairs are swapped: label 1."""

  tokenizer: Vocabulary | None = None
  fields: tuple[str, ...] = ("tokens", "weights")
  needs: tuple[str, ...] = ("next_sentence",)

  def for_tokenizer(self, tokenizer: Vocabulary) -> "SentenceOrder":
    pairs.check(tokenizer)
    return dataclasses.replace(self, tokenizer=tokenizer)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    pair_key, model_key = two_keys(key)
    assert self.tokenizer is not None
    made = pairs.with_order(self.tokenizer, batch, pair_key)
    output = apply(params, input_ids=made.rows["tokens"], **made.inputs, key=model_key)
    return pairs.pair_losses(output["seq_relationship_logits"], made)._replace(auxiliary=output.auxiliary)


def build() -> SentenceOrder:
  """Sentence order prediction."""
  return SentenceOrder()
