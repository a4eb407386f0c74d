"""Pairs of completions, one of them preferred, as objectives over preferences read them: both of a pair in one pass of
the model, one number for each, and the usual metrics of such pairs."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llm_jax.core.output import Output
from llm_jax.core.types import Batch, Key, Mean, Metrics, Params
from llm_jax.objectives.token_logprobs import lengths, token_logprobs

FIELDS = ("chosen", "chosen_parts", "rejected", "rejected_parts", "weights")


class Pair(NamedTuple):
  """A number (B,) for each completion of a pair: its log-probability, its length in tokens, its reward."""

  chosen: jax.Array
  rejected: jax.Array

  def per(self, size: "Pair") -> "Pair":
    """Each over its own size: means per token."""
    return Pair(self.chosen / size.chosen, self.rejected / size.rejected)


def side_by_side(batch: Batch, first: str, second: str) -> tuple[jax.Array, jax.Array]:
  """(tokens, parts), (2 B, L) each: the two rows of an example behind each other, so that both stay on its device."""
  both = lambda a, b: jnp.stack([batch[a], batch[b]], 1).reshape(-1, batch[a].shape[1])
  return both(first, second), both(f"{first}_parts", f"{second}_parts")


def apart(values: jax.Array) -> Pair:
  """What was computed for `side_by_side` rows, (2 B,), for each of the two."""
  both_B2 = values.reshape(-1, 2)
  return Pair(both_B2[:, 0], both_B2[:, 1])


def logprobs(apply: Callable, params: Params, batch: Batch, key: Key | None, chunk: int | str) -> tuple[Pair, Output]:
  """The log-probability in nats of each completion after its prompt, and the model's output."""
  tokens, parts = side_by_side(batch, "chosen", "rejected")
  values, output = token_logprobs(apply, params, tokens, parts, key=key, chunk=chunk)
  return apart(values.sum(1)), output


def sizes(batch: Batch) -> Pair:
  """Tokens of each completion, at least 1."""
  return Pair(lengths(batch["chosen_parts"]), lengths(batch["rejected_parts"]))


def reward_metrics(rewards: Pair, weights: jax.Array) -> Metrics:
  """`rewards_chosen`, `rewards_rejected`, `rewards_margins` and `rewards_accuracies`, the share of pairs whose chosen
  completion has the larger reward."""
  chosen, rejected = jax.lax.stop_gradient(rewards)
  values = dict(rewards_chosen=chosen, rewards_rejected=rejected, rewards_margins=chosen - rejected,
                rewards_accuracies=(chosen > rejected).astype(jnp.float32))
  return {name: Mean((v * weights).sum(), weights.sum()) for name, v in values.items()}
