"""The words in which a model says what it can be trained for, and in which an objective says what it needs.

A model lists them where it is made (`Model.from_module(..., offers=...)`), an objective in `needs`; a pair is legal
when the model offers all that the objective needs, and experiment.build refuses any other before data are read.
"""

from collections.abc import Iterable

OFFERS = {
    "causal": "scores of the next token from the tokens before it alone",
    "masked": "scores of every token from both sides: bidirectional attention and a head over the vocabulary",
    "prefix": "bidirectional attention within the first tokens of a row: an input `prefix_length` (B,)",
    "next_sentence": "an output 'seq_relationship_logits' (B, 2) of a pair of sentences",
    "encoder_decoder": "an input `decoder_input_ids` beside the encoder's input_ids",
    "permutation": "the inputs `perm_mask` and `target_mapping` of two-stream attention",
    "replaced_token": "the methods `generator` and `discriminator`, one score per token from the second",
    "entities": "the inputs `entity_vectors`, `entity_mask`, `entity_alignment`, an output 'entity_logits' (B, L, E)",
    "classes": "scores (B, C) of the labels of a whole text",
    "token_classes": "scores (B, L, C) of a label for every token",
    "spans": "outputs 'start_logits' and 'end_logits' (B, L)",
    "spelled": "scores of the next word from the characters of those before: `input_ids` (B, L, W)",
    "carry": "a recurrent state, taken and returned as `cache`",
    "mems": "a memory of earlier segments, taken and returned",
    "scores": "an input `inputs` of vectors or images, and scores of them",
    "prompts": "inputs `inputs` and `targets` of points in turn, and a prediction of every target before it is seen",
}


def offered(words: Iterable[str]) -> frozenset[str]:
  """The words as a set.

  Raises:
    ValueError: a word that is not in `OFFERS`.
  """
  given = frozenset(words)
  if unknown := given - OFFERS.keys():
    raise ValueError(f"no such offer: {sorted(unknown)}; core/offers.py has {', '.join(OFFERS)}")
  return given
