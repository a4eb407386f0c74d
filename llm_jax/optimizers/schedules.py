"""Learning rates as pure functions of the step: a linear warmup, then a decay chosen by name.

`Schedule` works on numbers and numpy arrays (plots) and on traced steps (inside the update), and remembers nothing, so
that a resumed run has exactly the rate of the uninterrupted one. With peak P, warmup of W steps, T steps in all and
floor E = end * P, the rate of the update number t = 0, 1, ... is

  t < W         P (t + 1) / (W + 1)
  cosine        E + (P - E) (1 + cos(pi p)) / 2        p = (t - W) / (T - W)      Loshchilov and Hutter 2017
  linear        P + (E - P) p
  rsqrt         max(E, P sqrt(W / t))                                             Vaswani et al. 2017
  wsd           P, then over the last `cooldown` of T: E + (P - E) (1 - q) or (1 - sqrt q)  Hu 2024; Haegele 2024
  halve         P, then over the last `cooldown` of T: P / 2 ** k in the k-th of `halvings` equal parts  Zaremba 2014
  constant      P
  range_test    E (P / E) ** (t / (T - 1)), no warmup                             Smith 2017

and stays at its last value after T.
"""

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core.errors import ConfigError, unknown_name

Decay = Literal["cosine", "linear", "rsqrt", "wsd", "halve", "constant", "range_test"]


@dataclasses.dataclass(frozen=True)
class Schedule:
  """The learning rate of the update number `step`, counted from 0; make one with `schedule`.

  warmup and total are in steps; cooldown is the number of steps of the cooldown of wsd and halve; end is a fraction of
  peak.
  """

  peak: float
  warmup: int
  total: int
  decay: str = "cosine"
  end: float = 0.1
  cooldown: int = 0
  cooldown_shape: str = "sqrt"
  halvings: int = 9

  def __call__(self, step: Any) -> Any:
    """step: a number or an array of any shape -> rates of that shape, float32; traced if `step` is."""
    xp: ModuleType = jnp if isinstance(step, jax.Array) else np
    t = xp.asarray(step, "float32")
    rise = (t + 1) / (self.warmup + 1)
    fall = DECAYS[self.decay](self, xp.clip(t, self.warmup, self.total), xp)
    return xp.asarray(self.peak * xp.where(t < self.warmup, rise, fall), "float32")

  def progress(self, t: Any) -> Any:
    """0 at the end of the warmup, 1 at `total`."""
    return (t - self.warmup) / max(self.total - self.warmup, 1)


def _cosine(s: Schedule, t: Any, xp: ModuleType) -> Any:
  return s.end + (1 - s.end) * 0.5 * (1 + xp.cos(np.pi * s.progress(t)))


def _linear(s: Schedule, t: Any, xp: ModuleType) -> Any:
  return 1 + (s.end - 1) * s.progress(t)


def _rsqrt(s: Schedule, t: Any, xp: ModuleType) -> Any:
  return xp.maximum(s.end, xp.sqrt(s.warmup / xp.maximum(t, 1)))


def _wsd(s: Schedule, t: Any, xp: ModuleType) -> Any:
  q = xp.maximum(t - (s.total - s.cooldown), 0) / max(s.cooldown, 1)
  return s.end + (1 - s.end) * (1 - (xp.sqrt(q) if s.cooldown_shape == "sqrt" else q))


def _halve(s: Schedule, t: Any, xp: ModuleType) -> Any:
  q = (t - (s.total - s.cooldown)) / max(s.cooldown, 1)
  return 0.5 ** xp.clip(xp.floor(q * s.halvings) + 1, 0, s.halvings)


def _constant(s: Schedule, t: Any, xp: ModuleType) -> Any:
  return xp.ones_like(t)


def _range_test(s: Schedule, t: Any, xp: ModuleType) -> Any:
  return xp.exp(np.log(s.end) * (1 - xp.minimum(t / max(s.total - 1, 1), 1)))


DECAYS: dict[str, Callable[[Schedule, Any, ModuleType], Any]] = {
    "cosine": _cosine, "linear": _linear, "rsqrt": _rsqrt, "wsd": _wsd, "halve": _halve, "constant": _constant,
    "range_test": _range_test,
}


def schedule(*, peak: float, total: int, warmup: float = 0.0, decay: str = "cosine", end: float | None = None,
             cooldown: float = 0.2, cooldown_shape: str = "sqrt", halvings: int = 9,
             key: str = "config.optimizer") -> Schedule:
  """A checked Schedule.

  Args:
    peak: highest rate.
    total: steps over which the decay is planned.
    warmup: steps, or the fraction of `total` if below 1.
    decay: a name in DECAYS.
    end: floor as a fraction of peak; None means 0.1, and 1e-6 for a range test (which starts there).
    cooldown: wsd and halve only: steps, or the fraction of `total` if below 1.
    cooldown_shape: wsd only: 'linear' or 'sqrt'.
    halvings: halve only: how often the rate is halved in the cooldown.
    key: path of these knobs in error messages.

  Raises:
    ConfigError: a value out of range; a warmup that does not fit the run or the decay.
  """
  if decay not in DECAYS:
    raise unknown_name(f"{key}.decay", decay, list(DECAYS), what="decay")
  if total < 1:
    raise ConfigError(f"{key}.horizon", f"a schedule over {total} steps", accepted="at least 1")
  if not peak > 0 or not np.isfinite(peak):
    raise ConfigError(f"{key}.peak", f"got {peak}", accepted="a learning rate above 0")
  end = (1e-6 if decay == "range_test" else 0.1) if end is None else end
  if not 0 <= end <= 1 or (decay == "range_test" and end == 0):
    raise ConfigError(f"{key}.end", f"got {end}", accepted="a fraction of peak from 0 to 1 (range_test: not 0)")
  rising = _steps(warmup, total, f"{key}.warmup")
  cooling = _steps(cooldown, total, f"{key}.cooldown")
  cooling = cooling if decay in ("wsd", "halve") else 0
  if halvings < 1:
    raise ConfigError(f"{key}.halvings", f"got {halvings}", accepted="a whole number from 1")
  if rising + cooling > total:
    raise ConfigError(f"{key}.warmup", f"{rising} steps of warmup and {cooling} of cooldown in a run of {total}",
                      accepted="warmup + cooldown <= the run's steps")
  if decay == "rsqrt" and rising < 1:
    raise ConfigError(f"{key}.warmup", "decay 'rsqrt' starts from the warmup and there is none", accepted="at least 1")
  if decay == "range_test" and rising:
    raise ConfigError(f"{key}.warmup", f"got {warmup}: a range test has no warmup", accepted="0")
  return Schedule(peak, rising, total, decay, end, cooling, cooldown_shape, halvings)


def _steps(value: float, total: int, key: str) -> int:
  if value < 0 or not np.isfinite(value) or (value >= 1 and value != int(value)):
    raise ConfigError(key, f"got {value}", accepted="a whole number of steps, or a fraction of the run below 1")
  return int(value) if value >= 1 else round(value * total)
