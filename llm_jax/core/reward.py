"""What a completion that a policy wrote is worth: the protocol of the plug-ins in llm_jax/rewards."""

from collections.abc import Sequence
from typing import Any, Protocol

import jax

from llm_jax.core.types import Batch, Params, Score


class Reward(Protocol):
  """What a completion is worth. Inherit it for the defaults.

  fields: of the batch that it reads, one row for each completion; the prompt is there as 'prompt' and 'prompt_length'.
  models: workdirs or Hugging Face folders of trained models that it asks, whose arrays lie frozen beside the params.
  """

  fields: tuple[str, ...] = ()
  models: tuple[str, ...] = ()

  def for_tokenizer(self, tokenizer: Any) -> "Reward":
    """The same reward when the text's tokenizer is known.

    Raises:
      ConfigError: it cannot write or read what this reward looks for.
    """
    return self

  def with_models(self, scores: Sequence[Score]) -> "Reward":
    """The same reward when its `models` are there."""
    return self

  def given(self, params: Params) -> "Reward":
    """The same reward with what its models read. params: of the step, frozen arrays included."""
    return self

  def __call__(self, batch: Batch, tokens_NT: jax.Array, mask_NT: jax.Array) -> jax.Array:
    """(N,) float32. tokens: of the completions, the token that ended them included; mask: 1 where there is one."""
    ...
