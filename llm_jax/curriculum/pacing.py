"""Pacing: how a quantity (admitted fraction, length, batch, knob) moves from `start` to `end` over a run.

Pure functions of the step, in NumPy, for one step or an array of them; always clamped to what lies between start and
end. Each shape is the published one, with x = t / T and b = start / end where the source has a fraction that ends at 1:

  root         (x (1 - b^p) + b^p)^(1/p)              Platanios et al. 2019, equation 7 ('linear' p=1, 'sqrt' p=2)
  exponential  b + (1 - b) (e^(10 x) - 1)/(e^10 - 1)   Wu et al. 2021, table 2, as are the next three
  logarithmic  b + (1 - b) (1 + ln(x + e^-10) / 10)
  step         b + floor(x)
  polynomial   b + (1 - b) x^p
  cosine       b + (1 - b) (1 - cos(pi x)) / 2
  fixed_linear, fixed_root   floor(x^(1/p) (end - start) + start), rounded down to `multiple`   DeepSpeed's
  fixed_discrete             values[i] while t <= steps[i]                                      DeepSpeed's
  increments   min(end, start + increment floor(t / interval))                                  Garg et al. 2022
  stages       [(first step, value), ...]; the value of the last stage that has begun
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from llm_jax.core.errors import ConfigError, nearest_name, unknown_name

FLAT = math.exp(-10.0)


@dataclasses.dataclass(frozen=True)
class Pacing:
  """A quantity as a function of the step. Make one with `build`.

  start, end: its values at step 0 and from step `until` on. p: power or root. multiple: fixed_* only: values are
  rounded down to it. interval, increment: increments only. stages: (first step, value) pairs for stages; (last step,
  value) for fixed_discrete, where the last one's step is without effect.
  """

  shape: str
  start: float
  end: float
  until: int
  p: float = 1.0
  multiple: int = 1
  interval: int = 1
  increment: float = 0.0
  stages: tuple[tuple[int, float], ...] = ()

  def __call__(self, step: Any) -> Any:
    """The value at `step`: a float, or a float64 array for an array of steps."""
    t = np.asarray(step, np.float64)
    value = np.clip(SHAPES[self.shape](self, t), *self.limits)
    return float(value) if value.ndim == 0 else value

  @property
  def limits(self) -> tuple[float, float]:
    """(least, most) value that it ever takes."""
    values = [v for _, v in self.stages] or [self.start, self.end]
    return min(values), max(values)


def _fraction(p: Pacing, t: np.ndarray) -> np.ndarray:
  """x: 0 at step 0, 1 from `until` on."""
  return np.clip(t / p.until, 0.0, 1.0)


def _between(p: Pacing, share: Any) -> Any:
  return p.start + (p.end - p.start) * share


def _root(p: Pacing, t: np.ndarray) -> Any:
  low, high = (abs(v) ** p.p for v in (p.start, p.end))
  return (_fraction(p, t) * (high - low) + low) ** (1.0 / p.p)


def _exponential(p: Pacing, t: np.ndarray) -> Any:
  return _between(p, np.expm1(10.0 * _fraction(p, t)) / math.expm1(10.0))


def _logarithmic(p: Pacing, t: np.ndarray) -> Any:
  return _between(p, 1.0 + 0.1 * np.log(_fraction(p, t) + FLAT))


def _step(p: Pacing, t: np.ndarray) -> Any:
  return _between(p, np.floor(_fraction(p, t)))


def _polynomial(p: Pacing, t: np.ndarray) -> Any:
  return _between(p, _fraction(p, t) ** p.p)


def _cosine(p: Pacing, t: np.ndarray) -> Any:
  return _between(p, 0.5 * (1.0 - np.cos(np.pi * _fraction(p, t))))


def _fixed_root(p: Pacing, t: np.ndarray) -> Any:
  value = np.floor((t / p.until) ** (1.0 / p.p) * (p.end - p.start) + p.start)
  return value - value % p.multiple  # published as it is: `end` is reached late where it is no multiple


def _fixed_discrete(p: Pacing, t: np.ndarray) -> Any:
  last, values = np.array(p.stages, np.float64).T
  return values[np.minimum(np.searchsorted(last, t, side="left"), len(values) - 1)]


def _increments(p: Pacing, t: np.ndarray) -> Any:
  return p.start + math.copysign(p.increment, p.end - p.start) * np.floor(t / p.interval)


def _stages(p: Pacing, t: np.ndarray) -> Any:
  first, values = np.array(p.stages, np.float64).T
  return values[np.maximum(np.searchsorted(first, t, side="right") - 1, 0)]


SHAPES: dict[str, Callable[[Pacing, np.ndarray], Any]] = {
    "linear": _root, "sqrt": _root, "root": _root, "exponential": _exponential, "logarithmic": _logarithmic,
    "step": _step, "polynomial": _polynomial, "cosine": _cosine, "fixed_linear": _fixed_root,
    "fixed_root": _fixed_root, "fixed_discrete": _fixed_discrete, "increments": _increments, "stages": _stages,
}
POWERS = {"linear": 1.0, "sqrt": 2.0, "fixed_linear": 1.0}  # shapes whose p is in their name
DEFAULT_P = {"root": 2.0, "polynomial": 2.0, "fixed_root": 2.0}
KNOBS: dict[str, tuple[str, ...]] = {
    "root": ("p",), "polynomial": ("p",), "fixed_linear": ("multiple",), "fixed_root": ("p", "multiple"),
    "fixed_discrete": ("stages",), "increments": ("interval", "increment"), "stages": ("stages",)}
REQUIRED = {"fixed_discrete": ("stages",), "stages": ("stages",), "increments": ("interval", "increment")}


def pacing_of(spec: str | Mapping[str, Any] | Sequence, *, start: float, end: float, until: float, steps: int,
              key: str) -> Pacing:
  """The pacing that a config names.

  Args:
    spec: a name ('sqrt'), a dict (name='root', p=3), or a list of stages [(first step, value), ...].
    start: value at step 0.
    end: value from `until` on.
    until: steps, or a fraction of the run up to 1.
    steps: of the run.
    key: path of the spec in error messages.

  Raises:
    ConfigError: an unknown name or knob, a value out of range, stages that are not in order.
  """
  if isinstance(spec, Sequence) and not isinstance(spec, str):
    spec = {"name": "stages", "stages": spec}
  given = {"name": spec} if isinstance(spec, str) else dict(spec)
  name = given.pop("name", None)
  if name not in SHAPES:
    raise unknown_name(key, name, list(SHAPES), what="pacing")
  for knob in given:
    if knob not in KNOBS.get(name, ()):
      raise ConfigError(f"{key}.{knob}", f"pacing {name!r} has no such knob", accepted=", ".join(KNOBS.get(name, ())) or
                        "no knobs", nearest=nearest_name(knob, KNOBS.get(name, ())))
  for knob in REQUIRED.get(name, ()):
    if knob not in given:
      raise ConfigError(f"{key}.{knob}", f"pacing {name!r} needs it")
  start, end = (_number(v, f"{key.rpartition('.')[0]}.{side}") for v, side in ((start, "start"), (end, "end")))
  stages = _checked_stages(given.pop("stages"), steps, f"{key}.stages") if "stages" in given else ()
  p = given.pop("p", POWERS.get(name, DEFAULT_P.get(name, 1.0)))
  if name in ("linear", "sqrt", "root") and (start < 0 or end < 0):
    raise ConfigError(key, f"pacing {name!r} from {start:g} to {end:g}", accepted="values >= 0")
  for knob, value in dict(p=p, **given).items():
    if not isinstance(value, int | float) or not value > 0:
      raise ConfigError(f"{key}.{knob}", f"got {value!r}", accepted="a number above 0")
  return Pacing(name, start, end, whole_steps(until, steps, key.rpartition(".")[0] + ".until"), float(p),
                stages=stages, **given)


build = pacing_of  # not written `def build`: by that line a file says that it is a plug-in of its room


def whole_steps(value: float, steps: int, key: str) -> int:
  """`value` steps, or that fraction of the run if it is at most 1.

  Raises:
    ConfigError: it is not above 0, or neither a fraction nor whole.
  """
  if not isinstance(value, int | float) or not 0 < value < math.inf or (value > 1 and value != int(value)):
    raise ConfigError(key, f"got {value!r}", accepted="a fraction of the run up to 1, or a whole number of steps")
  return int(value) if value > 1 else max(1, round(value * steps))


def first_steps(stages: Sequence, steps: int, key: str) -> list[int]:
  """The first step of each stage [(when, ...), ...]; when: a step, or below 1 a fraction of the run.

  Raises:
    ConfigError: no stage, or they are not in rising order.
  """
  pairs = [s for s in stages if isinstance(s, Sequence) and not isinstance(s, str) and len(s) == 2]
  if not stages or len(pairs) != len(stages) or not all(isinstance(s[0], int | float) for s in pairs):
    raise ConfigError(key, f"got {stages!r}", accepted="[(first step, value), ...]")
  first = [round(s[0] * steps) if 0 < s[0] < 1 else int(s[0]) for s in pairs]
  if sorted(set(first)) != first or first[0] < 0:
    raise ConfigError(key, f"stages begin at steps {first}", accepted="steps in rising order")
  return first


def _checked_stages(stages: Sequence, steps: int, key: str) -> tuple[tuple[int, float], ...]:
  first = first_steps(stages, steps, key)
  return tuple((at, _number(stage[1], key)) for at, stage in zip(first, stages, strict=True))


def _number(value: Any, key: str) -> float:
  if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
    raise ConfigError(key, f"got {value!r}", accepted="a number")
  return float(value)
