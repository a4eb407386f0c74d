"""Next sentence prediction: does B follow A in the text? (Devlin et al. 2019, section 3.1, task 2)"""

import dataclasses
from collections.abc import Callable

from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params, Vocabulary
from llm_jax.objectives import pairs
from llm_jax.objectives.text_rows import two_keys


@dataclasses.dataclass(frozen=True)
class NextSentence(Objective):
  """One value per row, in nats; metric `accuracy`. Half of the pairs have the B of another row: label 1."""

  tokenizer: Vocabulary | None = None
  fields: tuple[str, ...] = ("tokens", "weights")
  needs: tuple[str, ...] = ("next_sentence",)

  def for_tokenizer(self, tokenizer: Vocabulary) -> "NextSentence":
    pairs.check(tokenizer)
    return dataclasses.replace(self, tokenizer=tokenizer)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    pair_key, model_key = two_keys(key)
    assert self.tokenizer is not None
    made = pairs.with_strangers(self.tokenizer, batch, pair_key)
    output = apply(params, input_ids=made.rows["tokens"], **made.inputs, key=model_key)
    return pairs.pair_losses(output["seq_relationship_logits"], made)._replace(auxiliary=output.auxiliary)


def build() -> NextSentence:
  """Next sentence prediction."""
  return NextSentence()
