"""Any Python function of the text: `module:function`, called on the host from inside the train step.

    def reward(completion: str, answer: str) -> float: ...

It must be a function of its arguments alone, or a resume is not exact. One process only: the text of every row comes to
the host that runs the step.
"""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.core.reward import Reward
from llm_jax.core.types import Batch

KEY = "config.objective.reward.function"


@dataclasses.dataclass(frozen=True)
class Function(Reward):
  """tokenizer: once it is known."""

  function: Callable[[str, str], float]
  tokenizer: Any = None
  fields: tuple[str, ...] = ("answer", "answer_length")

  def for_tokenizer(self, tokenizer: Any) -> "Function":
    return dataclasses.replace(self, tokenizer=tokenizer)

  def __call__(self, batch: Batch, tokens_NT: jax.Array, mask_NT: jax.Array) -> jax.Array:
    shape = jax.ShapeDtypeStruct((tokens_NT.shape[0],), np.float32)
    wanted: jax.Array = jax.pure_callback(self._on_host, shape, tokens_NT, mask_NT, batch["answer"],
                                          batch["answer_length"])
    return wanted

  def _on_host(self, tokens_NT: Any, mask_NT: Any, answer_NA: Any, length_N: Any) -> np.ndarray:
    read = lambda ids, count: self.tokenizer.decode(np.asarray(ids)[:int(count)])
    texts = [read(t, np.asarray(m).sum()) for t, m in zip(tokens_NT, mask_NT)]
    answers = [read(a, n) for a, n in zip(answer_NA, length_N)]
    return np.array([self.function(text, answer) for text, answer in zip(texts, answers)], np.float32)


def build(*, function: str) -> Function:
  """What a Python function says of a completion's text.

  Args:
    function: `module:name` of a function (completion, known answer) -> number; both texts without special tokens.

  Raises:
    ConfigError: there is no such function, or several processes train.
  """
  module, _, name = function.partition(":")
  try:
    found = getattr(importlib.import_module(module), name)
  except (ImportError, AttributeError, ValueError) as e:
    raise ConfigError(KEY, f"{function!r}: {e}", accepted="'module:function', importable from here") from None
  if jax.process_count() > 1:
    raise ConfigError(KEY, f"{jax.process_count()} processes train, and the text comes to one",
                      accepted="one process, or a reward over tokens")
  return Function(found)
