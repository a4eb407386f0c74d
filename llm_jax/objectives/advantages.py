"""How much better than expected an action was: what a policy gradient weighs the log-probability of each with.

A group is the completions of one prompt. Group-relative advantages (Shao et al. 2024, DeepSeekMath, section 4.1) and
leave-one-out ones (Kool et al. 2019; Ahmadian et al. 2024) compare the rewards within it and need no model of the
value; generalized advantage estimation (Schulman et al. 2016) has one. Nothing here is differentiated by its users.
"""

from typing import Literal

import jax
import jax.numpy as jnp

Scale = Literal["group", "batch", "none"]


def group_relative(rewards_BG: jax.Array, scale: Scale = "group", epsilon: float = 1e-4) -> jax.Array:
  """(B, G): reward minus the group's mean, over a deviation (with G - 1, resp. B G - 1) + epsilon.

  scale: which deviation: of the group; of the whole batch; 'none' divides by nothing (Liu et al. 2025, Dr. GRPO).
  """
  deviations = {"group": lambda r: deviation(r, -1), "batch": lambda r: deviation(r, None), "none": lambda r: None}
  centred, spread = rewards_BG - rewards_BG.mean(-1, keepdims=True), deviations[scale](rewards_BG)
  return centred if spread is None else centred / (spread + epsilon)


def deviation(rewards_BG: jax.Array, axis: int | None) -> jax.Array:
  """The standard deviation with n - 1 along an axis, or of all, kept as dimensions of 1; 0 of a single number."""
  centred = rewards_BG - rewards_BG.mean(axis, keepdims=True)
  count = rewards_BG.size if axis is None else rewards_BG.shape[axis]
  return jnp.sqrt(jnp.square(centred).sum(axis, keepdims=True) / max(count - 1, 1))


def leave_one_out(rewards_BG: jax.Array) -> jax.Array:
  """(B, G): reward minus the mean of the other rewards of the group; G is 2 at least."""
  others = rewards_BG.sum(-1, keepdims=True) - rewards_BG
  return rewards_BG - others / (rewards_BG.shape[-1] - 1)


def generalized(rewards_NT: jax.Array, values_NT: jax.Array, done_NT: jax.Array, last_value_N: jax.Array, *,
                gamma: float, lam: float) -> jax.Array:
  """(N, T) advantages; those plus the values are the returns.

      delta_t = r_t + gamma v_{t+1} - v_t,   A_t = delta_t + gamma lam A_{t+1}

  done: 1 where the episode ends after the step, which cuts both sums; last_value (N,): after the last step.
  """
  live_NT = 1.0 - done_NT.astype(values_NT.dtype)
  next_NT = jnp.concatenate([values_NT[:, 1:], last_value_N[:, None]], 1)
  delta_NT = rewards_NT + gamma * next_NT * live_NT - values_NT
  def back(later_N: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    delta_N, live_N = step
    now_N = delta_N + gamma * lam * live_N * later_N
    return now_N, now_N
  _, found_TN = jax.lax.scan(back, jnp.zeros_like(last_value_N), (delta_NT.T, live_NT.T), reverse=True)
  return found_TN.T


def whiten(x_NT: jax.Array, mask_NT: jax.Array, epsilon: float = 1e-8) -> jax.Array:
  """Mean 0 and variance 1 (with n - 1) over the places of the mask; the others get the same map."""
  on = mask_NT.astype(x_NT.dtype)
  count = on.sum()
  mean = (x_NT * on).sum() / jnp.maximum(count, 1.0)
  variance = (jnp.square(x_NT - mean) * on).sum() / jnp.maximum(count - 1.0, 1.0)
  return (x_NT - mean) * jax.lax.rsqrt(variance + epsilon)
