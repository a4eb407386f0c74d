"""Difficulty by structure: what a generated example is made of, exactly, by the family that made it.

Signs that differ from +1 in a parity (Cornacchia and Mossel 2023), active dimensions of a linear function (Garg et al.
2022). The family says what counts, see its plug-in of data/.
"""

import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.data.scorers import Score, ScoringContext


def build(context: ScoringContext) -> Score:
  """The number that the family gives each example.

  Raises:
    ConfigError: the data are not generated, and nothing knows what they are made of.
  """
  if not context.structured:
    raise ConfigError(context.key, "'structure' is what a family of generated examples says of each, and these data "
                      "are none", accepted="config.data.name='parity' or 'linear_functions' with config.data.pool, or "
                                           "another scorer")
  return lambda rows: rows["structure"].astype(np.float64)
