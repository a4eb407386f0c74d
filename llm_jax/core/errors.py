"""Errors a user can act on, each with the exit code its door returns.

A door prints `str(error)` and exits with `error.exit_code`: no traceback, at most ten lines. Anything that is not an
`LlmJaxError` is a bug and keeps its traceback. Exit codes: 0 done, 2 bad config or input, 3 data policy, 4 no usable
checkpoint, 75 restart me (preempted, watchdog).
"""

import difflib
import functools
from collections.abc import Iterable, Sequence
from typing import Any


class LlmJaxError(Exception):
  """Base of every error that is the user's to fix; `exit_code` is what the process returns."""

  exit_code = 1


class ConfigError(LlmJaxError):
  """A config key or a command line that cannot be run.

  Args:
    key: dotted path of the key as the user writes it, e.g. `config.optimizer.peak`.
    problem: what is wrong, with the value that was given.
    accepted: what would be accepted, one line.
    nearest: the nearest valid name, if the problem is a name.
  """

  exit_code = 2

  def __init__(self, key: str, problem: str, *, accepted: str = "", nearest: str | None = None):
    self.key, self.problem, self.accepted, self.nearest = key, problem, accepted, nearest
    lines = [f"{key}: {problem}"]
    if nearest:
      lines.append(f"  did you mean: {nearest}")
    if accepted:
      lines.append(f"  accepted: {shorten(accepted)}")
    super().__init__("\n".join(lines))

  def __reduce__(self) -> Any:  # by its arguments: an error crosses from a data worker to the door
    return functools.partial(type(self), accepted=self.accepted, nearest=self.nearest), (self.key, self.problem)


class DataError(LlmJaxError):
  """Input data that the data policy refuses; names the file and line."""

  exit_code = 3


class CheckpointError(LlmJaxError):
  """No checkpoint that can be trusted, or one that belongs to another run."""

  exit_code = 4


class RestartError(LlmJaxError):
  """The run stopped in good order and wants to be started again (preemption, watchdog)."""

  exit_code = 75


class DivergedError(LlmJaxError):
  """The guard stopped the run (too many skipped updates in a row); a checkpoint was written."""

  exit_code = 1


MOST_LAYERS = 10_000  # each is a step of Python when a network is laid out


def check_counts(key: str, **counts: int | None) -> None:
  """Raises ConfigError for a count below 1, or a depth beyond reason; None is no count. key: path of the section, e.g.
  `config.model`."""
  for name, value in counts.items():
    if value is not None and value < 1:
      raise ConfigError(f"{key}.{name}", f"got {value}", accepted="a whole number from 1")
    if value is not None and name.endswith("depth") and value > MOST_LAYERS:
      raise ConfigError(f"{key}.{name}", f"got {value}", accepted=f"at most {MOST_LAYERS:,} layers")


def nearest_name(name: str, valid: Iterable[str]) -> str | None:
  """The valid name closest in spelling to `name`, or None if none is close."""
  close = difflib.get_close_matches(str(name), [str(v) for v in valid], n=1, cutoff=0.5)
  return close[0] if close else None


def unknown_name(key: str, given: Any, valid: Sequence[str], what: str = "name") -> ConfigError:
  """A ConfigError for a name that is not one of `valid`."""
  return ConfigError(key, f"unknown {what} {given!r}", accepted=", ".join(sorted(map(str, valid))),
                     nearest=nearest_name(given, valid))


def shorten(text: str, width: int = 400) -> str:
  """`text` cut to `width` characters, so that an error stays on a screen."""
  return text if len(text) <= width else text[: width - 4] + " ..."
