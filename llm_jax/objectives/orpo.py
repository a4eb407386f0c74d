"""Odds ratio preference optimisation (Hong, Lee and Thorne 2024): likelihood of the chosen completion, and the odds by
which it beats the rejected one, without a reference model.

    loss = -log p(chosen) / |chosen| - beta log sigma(log odds(chosen) - log odds(rejected)),   odds = p / (1 - p)

where p is the geometric mean of a completion's token probabilities (equations 4, 6 and 7).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm_jax.core.types import Batch, Key, Knobs, Losses, Mean, Objective, Params
from llm_jax.objectives.knob_ranges import check_positive
from llm_jax.objectives.preference_pairs import FIELDS, Pair, logprobs, reward_metrics, sizes

LEAST = 1e-7  # of -log p: a completion that is certain has infinite odds


@dataclasses.dataclass(frozen=True)
class ORPO(Objective):
  """One value per pair. Metrics: those of rewards, which are beta log p, `supervised_loss` and `odds_loss`."""

  beta: float
  chunk: int | str
  fields: tuple[str, ...] = FIELDS
  needs: tuple[str, ...] = ("causal",)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    policy, output = logprobs(apply, params, batch, key, self.chunk)
    means, weights = policy.per(sizes(batch)), batch["weights"]
    odds = odds_losses(means, self.beta)
    parts = {n: Mean((jax.lax.stop_gradient(v) * weights).sum(), weights.sum())
             for n, v in (("supervised_loss", -means.chosen), ("odds_loss", odds))}
    rewards = Pair(self.beta * means.chosen, self.beta * means.rejected)
    return Losses(odds - means.chosen, weights, reward_metrics(rewards, weights) | parts | output.metrics,
                  output.auxiliary)


def odds_losses(means: Pair, beta: float) -> jax.Array:
  """(B,): -beta log sigma of the log odds ratio of mean token log-probabilities."""
  return -beta * jax.nn.log_sigmoid(log_odds(means.chosen) - log_odds(means.rejected))


def log_odds(logp: jax.Array) -> jax.Array:
  """log(p / (1 - p)) of log p < 0, exact at both ends."""
  logp = jnp.minimum(logp, -LEAST)
  return logp - jax.nn.log1mexp(-logp)


def build(*, beta: float = 0.1, chunk: int | str = "auto") -> ORPO:
  """Odds ratio preference optimisation.

  Args:
    beta: weight of the odds ratio beside the likelihood of the chosen completion (the paper's lambda).
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.

  Raises:
    ConfigError: beta is not above 0.
  """
  check_positive("beta", beta)
  return ORPO(beta, chunk)
