"""P-tuning (Liu et al. 2021, "GPT understands, too"): prompt tuning whose vectors come from a trained network.

    prompt = relu(relu(E W_1 + b_1) W_2 + b_2) W_3 + b_3,   E (P, D),   W_1 (D, hidden),   W_2 (hidden, hidden)

The paper has an LSTM and an MLP; this is the MLP alone, which Hugging Face's peft recommends. What is saved for others
is the prompt that comes of it. As with every prompt, no start leaves the model as it was.
"""

import functools

from llm_jax.core.errors import check_counts
from llm_jax.peft.adapted import KEY, Method, frozen_but
from llm_jax.peft.prompt_tuning import TRAINED
from llm_jax.peft.virtual_tokens import Vectors, prompted


def build(*, tokens: int = 20, hidden: int | None = 128, deviation: float = 1.0) -> Method:
  """P-tuning.

  Args:
    tokens: number of virtual tokens.
    hidden: width of the network's two hidden layers; None: no network, as a saved prompt has none.
    deviation: E starts as N(0, deviation^2).
  """
  check_counts(KEY, tokens=tokens, hidden=hidden)
  make = lambda rngs, width: Vectors(rngs, tokens, width, deviation=deviation, inner=width,
                                     hidden=(hidden, hidden) if hidden else (), act="relu")
  return Method(functools.partial(prompted, make=make, count=tokens), frozen_but(TRAINED), merge=None,
                name="p_tuning", knobs=dict(tokens=tokens, hidden=hidden, deviation=deviation))
