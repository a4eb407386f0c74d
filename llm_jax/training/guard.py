"""The NaN and spike guard: a bad update is skipped on every device, inside the step, without a host sync.

An update is bad when the loss or the gradient norm is not finite, or lies `sigmas` standard deviations above the mean
of the last `window` steps (the rule of OLMo's SkipStepOptimizer). Parameters, optimizer state and averages then stay
exactly as they were. What enters the window is cut at the threshold, so that one spike does not raise it.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError

GuardState = dict[str, jax.Array]
LONGEST = 1_000_000  # window


@dataclasses.dataclass(frozen=True)
class Guard:
  """window: steps of history, 0 checks only for finiteness; max_skips: so many in a row stop the loop."""

  window: int
  sigmas: float
  max_skips: int

  def init(self) -> GuardState:
    """Counters at zero and an empty window."""
    size = max(self.window, 1)
    return {"skipped": jnp.zeros((), jnp.int32), "consecutive": jnp.zeros((), jnp.int32),
            "seen": jnp.zeros((), jnp.int32), "loss": jnp.zeros(size, jnp.float32),
            "norm": jnp.zeros(size, jnp.float32)}

  def check(self, state: GuardState, loss: jax.Array, norm: jax.Array) -> tuple[jax.Array, GuardState]:
    """-> (scalar bool: apply this update, new state)."""
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    loss_limit, norm_limit = self._limit(state["loss"], state["seen"]), self._limit(state["norm"], state["seen"])
    good = finite & (loss <= loss_limit) & (norm <= norm_limit)
    slot = state["seen"] % max(self.window, 1)
    cut = lambda history, value, limit: jnp.where(finite, jnp.minimum(value, limit), history[slot])
    keep = lambda history, value, limit: history.at[slot].set(cut(history, value, limit))
    bad = (~good).astype(jnp.int32)
    return good, {"skipped": state["skipped"] + bad, "consecutive": jnp.where(good, 0, state["consecutive"] + 1),
                  "seen": state["seen"] + finite.astype(jnp.int32), "loss": keep(state["loss"], loss, loss_limit),
                  "norm": keep(state["norm"], norm, norm_limit)}

  def _limit(self, history: jax.Array, seen: jax.Array) -> jax.Array:
    """mean + sigmas * std of a full window; infinite before that."""
    if self.window == 0:
      return jnp.asarray(jnp.inf, jnp.float32)
    limit = history.mean() + self.sigmas * history.std()
    return jnp.where(seen >= self.window, limit, jnp.inf)


def build(*, window: int = 128, sigmas: float = 6.0, max_skips: int = 10) -> Guard:
  """The guard.

  Args:
    window: steps over which mean and deviation of loss and gradient norm are taken; 0 catches only NaN and infinity.
    sigmas: standard deviations above the mean from which an update is skipped.
    max_skips: skipped updates in a row after which the run stops, with a checkpoint.
  """
  for name, value, least in (("window", window, 0), ("sigmas", sigmas, 0), ("max_skips", max_skips, 1)):
    if value < least:
      raise ConfigError(f"config.guard.{name}", f"got {value}", accepted=f"at least {least}")
  if window > LONGEST:
    raise ConfigError("config.guard.window", f"got {window}", accepted=f"at most {LONGEST:,} steps, which are kept")
  return Guard(window, sigmas, max_skips)


def select(good: jax.Array, new: Any, old: Any) -> Any:
  """`new` where the update is applied, else `old`, leaf by leaf."""
  return jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
