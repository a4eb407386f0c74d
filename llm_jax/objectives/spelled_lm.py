"""Language modelling over words by a network that reads their characters (Kim et al. 2016).

The data serve words; their characters come from the tokenizer's vocabulary, as bytes of UTF-8 counted from 1 between a
mark for the start of a word and one for its end.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params
from llm_jax.objectives.cross_entropy import token_cross_entropy

START, END = 254, 255  # bytes of UTF-8 that no text has, counted from 1


@dataclasses.dataclass(frozen=True)
class SpelledLM(Objective):
  """Cross-entropy in nats per word. spelling: (V, W) characters of each word, 0 behind its end."""

  longest: int
  spelling: np.ndarray | None = None
  fields: tuple[str, ...] = ("tokens", "targets", "weights")
  needs: tuple[str, ...] = ("spelled",)
  codes_text: bool = True
  carries: bool = True

  def for_tokenizer(self, tokenizer: Any) -> "SpelledLM":
    """With the spelling of the vocabulary."""
    return dataclasses.replace(self, spelling=spelling(tokenizer, self.longest))

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    characters_BLW = jnp.asarray(self.spelling)[batch["tokens"]]
    carried = {"cache": batch["carry"]} if "carry" in batch else {}
    output = apply(params, input_ids=characters_BLW, position_ids=batch.get("positions"),
                   segment_ids=batch.get("segment_ids"), key=key, **carried)
    values, _ = token_cross_entropy(output.hidden, output.unembed, batch["targets"])
    return Losses(values, batch["weights"], output.metrics, output.auxiliary, carry=output.cache if carried else None)


def spelling(tokenizer: Any, longest: int) -> np.ndarray:
  """(V, longest) int32: bytes of each token between its marks, cut at `longest`."""
  table = np.zeros((tokenizer.vocab_size, longest), np.int32)
  for i in range(tokenizer.vocab_size):
    text = tokenizer.decode([i]).encode()[:longest - 2]
    row = [START, *(byte + 1 for byte in text), END]
    table[i, :len(row)] = row
  return table


def build(*, longest: int = 24) -> SpelledLM:
  """Language modelling for networks that read characters.

  Args:
    longest: characters of a word that are read, with the marks of its start and end.
  """
  return SpelledLM(longest)
