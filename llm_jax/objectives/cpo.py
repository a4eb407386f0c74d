"""Contrastive preference optimisation (Xu et al. 2024) and SimPO (Meng, Xia and Chen 2024): preferences without a
reference model, from how likely the policy itself makes each completion.

With s(y) = log p(y | x), or its mean per token where the loss is ipo or simpo, and d = s(chosen) - s(rejected):

    sigmoid  -log sigma(beta d)            hinge  max(0, 1 - beta d)            ipo  (d - 1 / (2 beta))^2
    simpo    -log sigma(beta d - gamma)
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params
from llm_jax.objectives.knob_ranges import check_not_negative, check_positive
from llm_jax.objectives.preference_pairs import FIELDS, Pair, logprobs, reward_metrics, sizes

Kind = Literal["sigmoid", "hinge", "ipo", "simpo"]
MEANS = ("ipo", "simpo")  # of log-probabilities per token, not sums
SMOOTHED = ("sigmoid", "simpo")
log_sigmoid = jax.nn.log_sigmoid


@dataclasses.dataclass(frozen=True)
class CPO(Objective):
  """One value per pair. The reward of a completion is beta s, see `reward_metrics`."""

  loss: Kind
  beta: float
  gamma: float
  label_smoothing: float
  supervised: float
  chunk: int | str
  fields: tuple[str, ...] = FIELDS
  needs: tuple[str, ...] = ("causal",)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    policy, output = logprobs(apply, params, batch, key, self.chunk)
    means, weights = policy.per(sizes(batch)), batch["weights"]
    scores = means if self.loss in MEANS else policy
    values = self.compare(scores) - self.supervised * means.chosen
    rewards = Pair(self.beta * scores.chosen, self.beta * scores.rejected)
    return Losses(values, weights, reward_metrics(rewards, weights) | output.metrics, output.auxiliary)

  def compare(self, scores: Pair) -> jax.Array:
    """(B,): the loss of s of the docstring."""
    return LOSSES[self.loss](scores.chosen - scores.rejected, self)


def _sigmoid(margin: jax.Array, of: CPO) -> jax.Array:
  eps = of.label_smoothing
  return -(1.0 - eps) * log_sigmoid(of.beta * margin) - eps * log_sigmoid(-of.beta * margin)


LOSSES: dict[str, Callable[[jax.Array, CPO], jax.Array]] = {
    "sigmoid": _sigmoid, "simpo": lambda margin, of: _sigmoid(margin - of.gamma / of.beta, of),
    "hinge": lambda margin, of: jax.nn.relu(1.0 - of.beta * margin),
    "ipo": lambda margin, of: jnp.square(margin - 0.5 / of.beta)}


def build(*, loss: Kind = "sigmoid", beta: float = 0.1, gamma: float = 0.5, label_smoothing: float = 0.0,
          supervised: float = 1.0, chunk: int | str = "auto") -> CPO:
  """Contrastive preference optimisation, or SimPO: loss='simpo', beta=2.0, supervised=0.0.

  Args:
    loss: sigmoid, hinge, ipo or simpo; the last two are of means over tokens.
    beta: how much a log-probability counts.
    gamma: margin by which the chosen completion is to win, of simpo alone.
    label_smoothing: share of pairs whose label is taken to be wrong; sigmoid and simpo have it.
    supervised: weight of the chosen completion's mean negative log-likelihood per token.
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.

  Raises:
    ConfigError: a number out of its range, or smoothing of a loss that has none.
  """
  check_positive("beta", beta)
  if not 0 <= label_smoothing < 0.5 or (label_smoothing and loss not in SMOOTHED):
    raise ConfigError("config.objective.label_smoothing", f"got {label_smoothing:g} for {loss!r}",
                      accepted=f"0, or a share below 0.5 for {', '.join(SMOOTHED)}")
  check_not_negative("supervised", supervised)
  return CPO(loss, beta, gamma, label_smoothing, supervised, chunk)
