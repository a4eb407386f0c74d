"""A profiler trace of some steps, by flag: `--profile=100:110` writes DIR/profile for TensorBoard or Perfetto."""

import dataclasses
import os

import jax

from llm_jax.core.errors import ConfigError


@dataclasses.dataclass
class Window:
  """Traces the steps first <= step < last into `directory`; an empty window traces nothing."""

  directory: str | os.PathLike = ""
  first: int = 0
  last: int = 0
  _running: bool = False

  def at(self, step: int) -> None:
    """Starts or stops the trace before this step."""
    if self.first <= step < self.last and not self._running:
      jax.profiler.start_trace(os.fspath(self.directory))
      self._running = True
    elif step >= self.last:
      self.stop()

  def stop(self) -> None:
    """Ends a running trace."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False


def parse(text: str, directory: str | os.PathLike) -> Window:
  """The window of `FIRST:LAST`; '' is no window.

  Raises:
    ConfigError: not two whole numbers in order.
  """
  if not text:
    return Window()
  first, _, last = text.partition(":")
  if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
    raise ConfigError("--profile", f"got {text!r}", accepted="FIRST:LAST, two steps in order, e.g. 100:110")
  return Window(directory, int(first), int(last))
