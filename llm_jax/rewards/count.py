"""How often a text's token is written: the simplest reward that is a function of the content alone."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.reward import Reward
from llm_jax.core.types import Batch


@dataclasses.dataclass(frozen=True)
class Count(Reward):
  """token: the id that is counted, once the tokenizer is known."""

  text: str
  token: int = -1

  def for_tokenizer(self, tokenizer: Any) -> "Count":
    key, accepted = "config.objective.reward.text", "a text of one token"
    try:
      ids = list(tokenizer.encode(self.text))
    except DataError as e:
      raise ConfigError(key, f"{self.text!r}: {e}", accepted=accepted) from None
    if len(ids) != 1:
      raise ConfigError(key, f"{self.text!r} is {len(ids)} tokens of this tokenizer", accepted=accepted)
    return dataclasses.replace(self, token=int(ids[0]))

  def __call__(self, batch: Batch, tokens_NT: jax.Array, mask_NT: jax.Array) -> jax.Array:
    return ((tokens_NT == self.token) & mask_NT).sum(1).astype(jnp.float32) / tokens_NT.shape[1]


def build(*, text: str) -> Count:
  """The tokens that are this text, as a share of all that there could be.

  Args:
    text: of one token, e.g. a character.
  """
  return Count(text)
