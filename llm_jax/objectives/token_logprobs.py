"""Log-probabilities of a row's own tokens under a causal model, which preference and policy objectives are made of.

They come from the chunked cross-entropy, so that (B, L, V) is never held. A row is read as it is: token i is scored
from the tokens before it, so that L tokens have L - 1 log-probabilities. Which of them count is said by `parts`, one
number of core/row_parts.py per token: PADDING, PROMPT (read, not scored), COMPLETION (read and scored).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm_jax.core.output import Output
from llm_jax.core.row_parts import COMPLETION, PADDING
from llm_jax.core.types import Key, Params
from llm_jax.objectives.cross_entropy import token_cross_entropy


def token_logprobs(apply: Callable, params: Params, tokens_BL: jax.Array, parts_BL: jax.Array, *,
                   key: Key | None = None, chunk: int | str = "auto",
                   temperature: float = 1.0) -> tuple[jax.Array, Output]:
  """-> (log-probability in nats of tokens 1 .. L-1, float32 (B, L - 1), 0 outside the completion; the model's output).

  parts_BL: int32, see above; padding stands at the end of a row. temperature: the logits are divided by it.
  """
  output = apply(params, input_ids=tokens_BL, segment_ids=(parts_BL != PADDING).astype(jnp.int32), key=key)
  unembed = output.unembed if temperature == 1.0 else lambda hidden: output.unembed(hidden) / temperature
  nll_BL, _ = token_cross_entropy(output.hidden, unembed, jnp.roll(tokens_BL, -1, axis=1), chunk=chunk)
  return jnp.where(scored(parts_BL), -nll_BL[:, :-1], 0.0), output


def scored(parts_BL: jax.Array) -> jax.Array:
  """(B, L - 1) bool: which of tokens 1 .. L-1 are of the completion."""
  return parts_BL[:, 1:] == COMPLETION


def lengths(parts_BL: jax.Array) -> jax.Array:
  """(B,) float32: tokens of the completion that are scored, at least 1 so that one can divide by it."""
  return jnp.maximum(scored(parts_BL).sum(1).astype(jnp.float32), 1.0)
