"""Prompt tuning (Lester et al. 2021): vectors in front of a text's own are trained, and nothing else is.

They stand where rows of the token table do, and are as wide. No start of them leaves the model as it was: a text behind
anything is another text. What holds is that nothing else changes, see virtual_tokens.py.
"""

import functools

from llm_jax.core.errors import check_counts
from llm_jax.peft.adapted import KEY, Method, frozen_but
from llm_jax.peft.virtual_tokens import Vectors, prompted

TRAINED = r"^tokens\.prompt\."


def build(*, tokens: int = 20, deviation: float = 0.02) -> Method:
  """Prompt tuning.

  Args:
    tokens: number of virtual tokens.
    deviation: their vectors start as N(0, deviation^2), as rows of a token table do.
  """
  check_counts(KEY, tokens=tokens)
  make = lambda rngs, width: Vectors(rngs, tokens, width, deviation=deviation)
  return Method(functools.partial(prompted, make=make, count=tokens), frozen_but(TRAINED), merge=None,
                name="prompt_tuning", knobs=dict(tokens=tokens, deviation=deviation))
