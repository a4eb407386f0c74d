"""Difficulty scorers: plug-ins whose `build(context, *, knobs)` returns `score(rows) -> (R,) float64`, larger = harder.

A row is what the model sees, one window of the training data with the fields of data/rows.py. A scorer sees rows and
what the context offers; who admits what, when, is the curriculum's business.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch
from llm_jax.data.token_store import Stream
from llm_jax.data.tokenizers import Tokenizer

ROOM = "data/scorers"
Score = Callable[[Batch], np.ndarray]
TokenLosses = Callable[[Batch], np.ndarray]  # rows -> (R, L) nats per target


@dataclasses.dataclass(frozen=True)
class ScoringContext:
  """What a scorer is handed. streams: the training text; losses_of: a workdir or Hugging Face folder, and the path of
  the knob that names it, -> that model's losses; structured: rows are generated and have a field 'structure'; key: of
  the scorer in error messages; tokenizer: None if the data are no text, see `text`."""

  tokenizer: Tokenizer | None
  streams: Sequence[Stream]
  losses_of: Callable[[str, str], TokenLosses]
  structured: bool
  key: str

  def text(self) -> Tokenizer:
    """The tokenizer, for a scorer of text.

    Raises:
      ConfigError: the data are no text.
    """
    if self.tokenizer is None:
      raise ConfigError(self.key, "this scorer reads text, and the data are none",
                        accepted="'structure'" if self.structured else "a text corpus")
    return self.tokenizer


def texts(tokenizer: Tokenizer, rows: Batch) -> list[str]:
  """The text of each row, without padding and special ids."""
  return [tokenizer.decode(tokens[segments > 0]) for tokens, segments in zip(rows["tokens"], rows["segment_ids"])]


def row_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """(R, L) values -> (R,) means over the targets that count; 0 for a row without any."""
  return (values * weights).sum(-1, dtype=np.float64) / np.maximum(weights.sum(-1, dtype=np.float64), 1.0)
