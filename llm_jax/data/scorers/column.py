"""Difficulty that comes with the data: a column of numbers, one for each document (config.data.difficulty_column).

A row that holds parts of several documents has the mean over its tokens.
"""

import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch
from llm_jax.data.scorers import Score, ScoringContext, row_means


def build(context: ScoringContext) -> Score:
  """The number that the source gives each document.

  Raises:
    ConfigError: the data have no such column.
  """
  context.text()
  missing = [s.domain for s in context.streams if not s.rated]
  if missing:
    raise ConfigError(context.key, f"the documents of {', '.join(missing)} come with no difficulty",
                      accepted="data with config.data.difficulty_column (text_folder over .jsonl or .parquet)")

  def score(rows: Batch) -> np.ndarray:
    document = rows["document"]
    values = np.zeros(document.shape)
    for number, stream in enumerate(context.streams):
      mine = (rows["domain"] == number)[:, None] & (document >= 0)
      values[mine] = stream.difficulty[document[mine]]
    return row_means(values, document >= 0)
  return score
