"""BERT's own training: masked tokens and the relation of two texts, from one pass over the same corrupted pair (Devlin
et al. 2019, appendix A.2: the sum of the two mean likelihoods); with the order of the texts it is ALBERT's."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params, Vocabulary
from llm_jax.objectives import masked_lm, pairs
from llm_jax.objectives.combined import Part, combine
from llm_jax.objectives.masking import Unit, mask
from llm_jax.objectives.text_rows import two_keys

PAIRS = {"next_sentence": pairs.with_strangers, "sentence_order": pairs.with_order}


@dataclasses.dataclass(frozen=True)
class BertPretraining(Objective):
  """Both losses as values (B, L + 1); metrics `masked_lm_loss`, `masked_lm_accuracy` and those of the relation."""

  masked: masked_lm.MaskedLM
  relation: Literal["next_sentence", "sentence_order"]
  relation_weight: float
  needs: tuple[str, ...] = ("masked", "next_sentence")

  @property
  def fields(self) -> tuple[str, ...]:  # type: ignore[override]
    return self.masked.fields

  def for_tokenizer(self, tokenizer: Vocabulary) -> "BertPretraining":
    pairs.check(tokenizer)
    return dataclasses.replace(self, masked=self.masked.for_tokenizer(tokenizer))

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    corrupt_key, model_key = two_keys(key)
    pair_key, mask_key = two_keys(corrupt_key)
    tokenizer = self.masked.tokenizer
    assert tokenizer is not None
    made = PAIRS[self.relation](tokenizer, batch, pair_key)
    masked_BL, chosen_BL = mask(self.masked.masking, tokenizer, made.rows, mask_key, knobs)
    output = apply(params, input_ids=masked_BL, **made.inputs, key=model_key)
    tokens = self.masked.losses(output, made.rows["tokens"], chosen_BL, knobs)
    relation = pairs.pair_losses(output["seq_relationship_logits"], made)
    return combine([Part("masked_lm", 1.0, tokens), Part(self.relation, self.relation_weight, relation)])


def build(*, relation: Literal["next_sentence", "sentence_order"] = "next_sentence", relation_weight: float = 1.0,
          ratio: float = 0.15, unit: Unit = "token", longest: int | None = None, mask_share: float = 0.8,
          random_share: float = 0.1, bound: float | None = None, chunk: int | str = "auto") -> BertPretraining:
  """Masked tokens and the relation of two texts.

  Args:
    relation: next_sentence (BERT) or sentence_order (ALBERT).
    relation_weight: of the relation's mean loss, beside 1 for the tokens'.
    ratio: share of the tokens of text that is to be predicted; a curriculum's knob 'mask_ratio' takes its place.
    unit: what is masked as a whole: token, word, ngram, span or phrase, see masked_lm.
    longest: words in an n-gram (3) or span (10) at most.
    mask_share: of the tokens to be predicted, how many are written as the mask token.
    random_share: how many as a random token; the rest stay as they are.
    bound: largest share of a row that can be masked, see masked_lm.
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.
  """
  masked = masked_lm.build(ratio=ratio, unit=unit, longest=longest, mask_share=mask_share, random_share=random_share,
                           bound=bound, chunk=chunk)
  return BertPretraining(masked, relation, relation_weight)
