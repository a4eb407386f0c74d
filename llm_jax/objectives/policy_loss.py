"""Losses of a policy on completions that an older policy sampled, as values per token and their weights.

A form says what one token's loss is, a spread what the sum over tokens is divided by:

    grpo     clipped ratio; mean over each completion, then over completions (Shao et al. 2024)
    bnpo     clipped ratio; mean over all tokens
    dapo     the same, by all tokens of the global batch, which is what every mean here divides by (Yu et al. 2025)
    dr_grpo  clipped ratio; the sum over the tokens there may be, not those that there are (Liu et al. 2025)
    cispo    the ratio, cut from above and held fixed, weighs the log-probability; all tokens (MiniMax 2025)
    sapo     a sigmoid of the ratio in place of the cut; as grpo (Qwen team 2025)

The ratio is each token's, or one for a whole completion: the geometric mean over its tokens (GSPO, Zheng et al. 2025)
or the product (RLOO, Ahmadian et al. 2024).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

Level = Literal["token", "sequence", "product"]
Kind = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"]


class Bounds(NamedTuple):
  """low, high: a ratio is cut to 1 - low .. 1 + high ('cispo': at high itself); delta: largest ratio at all, also where
  the advantage is negative, None for none (two-sided clipping); temperatures: of 'sapo', for advantages above 0 and
  for others."""

  low: float = 0.2
  high: float = 0.2
  delta: float | None = None
  temperatures: tuple[float, float] = (1.0, 1.05)


class Surrogate(NamedTuple):
  """values, weights (N, T), as in core/types.Losses; clipped: same shape, 1 where the loss has no gradient because the
  ratio is cut; ratio (N, T)."""

  values: jax.Array
  weights: jax.Array
  clipped: jax.Array
  ratio: jax.Array


def surrogate(logps_NT: jax.Array, old_NT: jax.Array, advantages: jax.Array, mask_NT: jax.Array, *, kind: Kind,
              level: Level = "token", bounds: Bounds = Bounds(), longest: int | None = None,  # noqa: B008, immutable
              penalty_NT: jax.Array | float = 0.0) -> Surrogate:
  """The loss of sampled tokens.

  logps, old: log-probabilities under the policy and under the one that sampled; advantages: (N,) or (N, T); mask: 1 for
  tokens of the completion; longest: tokens that a completion may have, T unless given; penalty: added to each token's
  loss (a coefficient times a KL).
  """
  form, spread = FORMS[kind]
  advantages = advantages if advantages.ndim == 2 else advantages[:, None]
  mask = mask_NT.astype(logps_NT.dtype)
  log_ratio = LEVELS[level](logps_NT - old_NT, mask)
  values, clipped = form(jnp.exp(log_ratio), logps_NT, advantages, bounds)
  values = jnp.broadcast_to(values, logps_NT.shape) + penalty_NT
  values, weights = spread(values, mask, logps_NT.shape[1] if longest is None else longest)
  fill = lambda x: jnp.broadcast_to(jax.lax.stop_gradient(x).astype(jnp.float32), logps_NT.shape)
  return Surrogate(values, weights, fill(clipped), fill(jnp.exp(log_ratio)))


def clipped(ratio: jax.Array, logps: jax.Array, advantages: jax.Array, bounds: Bounds) -> tuple[jax.Array, jax.Array]:
  """-> (-min(r A, clip(r) A), where that has no gradient); Schulman et al. 2017, equation 7."""
  inside = jnp.clip(ratio, 1.0 - bounds.low, 1.0 + bounds.high)
  free = ratio if bounds.delta is None else jnp.minimum(ratio, bounds.delta)
  cut = jnp.where(advantages > 0, ratio > 1.0 + bounds.high, (ratio < 1.0 - bounds.low) & (advantages < 0))
  if bounds.delta is not None:
    cut = cut | ((advantages < 0) & (ratio > bounds.delta))
  return -jnp.minimum(free * advantages, inside * advantages), cut


def capped(ratio: jax.Array, logps: jax.Array, advantages: jax.Array, bounds: Bounds) -> tuple[jax.Array, jax.Array]:
  """-> (-sg(min(r, high)) A log p, where the ratio is cut); every token keeps a gradient."""
  weight = jax.lax.stop_gradient(jnp.minimum(ratio, bounds.high))
  return -weight * advantages * logps, (ratio > bounds.high) & (advantages > 0)


def soft(ratio: jax.Array, logps: jax.Array, advantages: jax.Array, bounds: Bounds) -> tuple[jax.Array, jax.Array]:
  """-> (-4/t sigmoid(t (r - 1)) A, nowhere): slope 1 at r = 1, falling to both sides."""
  t = jnp.where(advantages > 0, *bounds.temperatures)
  return -jax.nn.sigmoid(t * (ratio - 1.0)) * 4.0 / t * advantages, jnp.zeros_like(ratio, bool)


def by_completion(values: jax.Array, mask: jax.Array, longest: int) -> tuple[jax.Array, jax.Array]:
  """Every completion weighs 1."""
  return values, mask / jnp.maximum(mask.sum(-1, keepdims=True), 1.0)


def by_token(values: jax.Array, mask: jax.Array, longest: int) -> tuple[jax.Array, jax.Array]:
  """Every token weighs 1."""
  return values, mask


def by_room(values: jax.Array, mask: jax.Array, longest: int) -> tuple[jax.Array, jax.Array]:
  """Every completion weighs 1, each of its tokens 1 / longest, however many there are."""
  T = values.shape[1]
  return values * mask * (T / longest), jnp.full_like(mask, 1.0 / T)


FORMS: dict[str, tuple[Callable, Callable]] = {
    "grpo": (clipped, by_completion), "bnpo": (clipped, by_token), "dapo": (clipped, by_token),
    "dr_grpo": (clipped, by_room), "cispo": (capped, by_token), "sapo": (soft, by_completion)}
LEVELS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "token": lambda log_ratio, mask: log_ratio,
    "sequence": lambda log_ratio, mask: (log_ratio * mask).sum(-1, keepdims=True) / jnp.maximum(
        mask.sum(-1, keepdims=True), 1.0),
    "product": lambda log_ratio, mask: (log_ratio * mask).sum(-1, keepdims=True)}


def value_losses(values: jax.Array, old: jax.Array, returns: jax.Array, clip: float | None) -> jax.Array:
  """Half the squared error of values, the larger of that and the error of values cut to old +- clip (PPO, as trained by
  its authors; Huang et al. 2024, The N+ implementation details of RLHF with PPO)."""
  free = jnp.square(values - returns)
  if clip is None:
    return 0.5 * free
  return 0.5 * jnp.maximum(free, jnp.square(old + jnp.clip(values - old, -clip, clip) - returns))


def k1(logps: jax.Array, reference: jax.Array) -> jax.Array:
  """log p - log q of a token that p sampled: its mean is KL(p || q), and it may be negative (Schulman 2020)."""
  return logps - reference


def k2(logps: jax.Array, reference: jax.Array) -> jax.Array:
  """Half the square of `k1`: biased, of little variance, and never negative."""
  return 0.5 * jnp.square(logps - reference)


def k3(logps: jax.Array, reference: jax.Array) -> jax.Array:
  """q/p - 1 - log q/p: the mean is KL(p || q), and it is never negative."""
  return jnp.expm1(reference - logps) - (reference - logps)
