"""The losses of direct preference optimisation, each a plain function of a pair's log-ratios.

With r(y) = log p(y | x) / p_ref(y | x), chosen c, rejected d and the score s(y), which is r(y) or f'(exp r(y)) of
another divergence f than the reverse KL (Wang et al. 2024, "Beyond reverse KL"):

    sigmoid       -log sigma(beta (s_c - s_d))                                   Rafailov et al. 2023, equation 7
      smoothed    (1 - eps) of that and eps of the pair exchanged                Mitchell 2023, conservative DPO
    robust        (that - the pair exchanged), unbiased under flips of eps       Chowdhury et al. 2024, equation 12
    hinge         max(0, 1 - beta (s_c - s_d))                                   Zhao et al. 2023 (SLiC)
    ipo           (s_c / |c| - s_d / |d| - 1 / (2 beta))^2, means over tokens    Azar et al. 2023, equation 17
    ipo_summed    the same of sums over tokens, as the equation stands
    sigmoid_norm  sigmoid of means over tokens
    exo_pair      KL(softmax of beta s || (1 - eps, eps))                        Ji et al. 2024, equation 16
    nca_pair      -log sigma(beta r_c) - 1/2 log sigma(-beta r_c) - 1/2 log sigma(-beta r_d)     Chen et al. 2024
    bco_pair      -log sigma(beta r_c) - log sigma(-beta r_d)                    Jung et al. 2024, without its shift
    sppo_hard     (r_c - 1 / (2 beta))^2 + (r_d + 1 / (2 beta))^2                Wu et al. 2024, equation 4.7
    apo_zero      sigma(-beta r_c) + sigma(beta r_d)                             D'Oosterlinck et al. 2024, equation 7
    apo_down      sigma(beta r_c) + sigma(-beta (r_c - r_d))                     the same, equation 8
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from llm_jax.objectives.preference_pairs import Pair

Kind = Literal["sigmoid", "robust", "hinge", "ipo", "ipo_summed", "sigmoid_norm", "exo_pair", "nca_pair", "bco_pair",
               "sppo_hard", "apo_zero", "apo_down"]
Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]
SMOOTHED = ("sigmoid", "robust", "exo_pair")  # have a label_smoothing
SCORED = ("sigmoid", "robust", "hinge", "ipo", "ipo_summed", "sigmoid_norm", "exo_pair")  # take another divergence
LARGEST = 80.0  # exponent whose power is still a float32

log_sigmoid, sigmoid = jax.nn.log_sigmoid, jax.nn.sigmoid


class Compared(NamedTuple):
  """ratios: r of the docstring; scores: s; means: s over the number of tokens; beta, eps: the knobs."""

  ratios: Pair
  scores: Pair
  means: Pair
  beta: float
  eps: float

  @property
  def margin(self) -> jax.Array:
    """(B,) beta times the difference of the scores."""
    return self.beta * (self.scores.chosen - self.scores.rejected)


def _alpha_score(ratio: jax.Array, alpha: float) -> jax.Array:
  return ratio if abs(alpha - 1.0) < 1e-6 else jnp.expm1(jnp.minimum((alpha - 1.0) * ratio, LARGEST)) / (alpha - 1.0)


# (log-ratio, alpha) -> f'(exp r) of the divergence f; alpha = 1 is the reverse KL.
SCORES: dict[str, Callable[[jax.Array, float], jax.Array]] = {
    "reverse_kl": lambda ratio, _: ratio, "forward_kl": lambda ratio, _: 1.0 - jnp.exp(-ratio),
    "js_divergence": lambda ratio, _: math.log(2.0) + log_sigmoid(ratio), "alpha_divergence": _alpha_score}


def _sigmoid(x: Compared) -> jax.Array:
  return -(1.0 - x.eps) * log_sigmoid(x.margin) - x.eps * log_sigmoid(-x.margin)


def _robust(x: Compared) -> jax.Array:
  return (-(1.0 - x.eps) * log_sigmoid(x.margin) + x.eps * log_sigmoid(-x.margin)) / (1.0 - 2.0 * x.eps)


def _ipo(x: Compared) -> jax.Array:
  return jnp.square(x.means.chosen - x.means.rejected - 0.5 / x.beta)


def _ipo_summed(x: Compared) -> jax.Array:
  return jnp.square(x.scores.chosen - x.scores.rejected - 0.5 / x.beta)


def _exo_pair(x: Compared) -> jax.Array:
  win = sigmoid(x.margin) * (log_sigmoid(x.margin) - math.log1p(-x.eps))
  return win + sigmoid(-x.margin) * (log_sigmoid(-x.margin) - math.log(x.eps))


def _nca_pair(x: Compared) -> jax.Array:
  chosen, rejected = x.beta * x.ratios.chosen, x.beta * x.ratios.rejected
  return -log_sigmoid(chosen) - 0.5 * log_sigmoid(-chosen) - 0.5 * log_sigmoid(-rejected)


def _bco_pair(x: Compared) -> jax.Array:
  return -log_sigmoid(x.beta * x.ratios.chosen) - log_sigmoid(-x.beta * x.ratios.rejected)


def _sppo_hard(x: Compared) -> jax.Array:
  return jnp.square(x.ratios.chosen - 0.5 / x.beta) + jnp.square(x.ratios.rejected + 0.5 / x.beta)


def _apo_zero(x: Compared) -> jax.Array:
  return sigmoid(-x.beta * x.ratios.chosen) + sigmoid(x.beta * x.ratios.rejected)


def _apo_down(x: Compared) -> jax.Array:
  return sigmoid(x.beta * x.ratios.chosen) + sigmoid(-x.beta * (x.ratios.chosen - x.ratios.rejected))


LOSSES: dict[str, Callable[[Compared], jax.Array]] = {
    "sigmoid": _sigmoid, "robust": _robust, "hinge": lambda x: jax.nn.relu(1.0 - x.margin), "ipo": _ipo,
    "ipo_summed": _ipo_summed,
    "sigmoid_norm": lambda x: -log_sigmoid(x.beta * (x.means.chosen - x.means.rejected)), "exo_pair": _exo_pair,
    "nca_pair": _nca_pair, "bco_pair": _bco_pair, "sppo_hard": _sppo_hard, "apo_zero": _apo_zero,
    "apo_down": _apo_down}
