"""A run that hangs says where and ends, so that whoever supervises it can start it again.

A stuck collective, file system or data loader raises nothing: it would hold the machines for ever. A thread watches
the time since the last step; past the deadline it writes the stacks of all threads, says what the run was waiting in
and exits with 75 (restart me). What is known to be slow (compiling, saving, evaluating) is a phase with a deadline of
its own.
"""

import collections
import contextlib
import faulthandler
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from llm_jax.core.errors import RestartError

# Seconds that a phase may take; other phase names only say where the run is and keep the deadline of a step.
PHASE_SECONDS = {"start": 3600.0, "compile": 3600.0, "restore": 3600.0, "save": 3600.0, "eval": 7200.0,
                 "sample": 1800.0}


class Watchdog:
  """`with Watchdog() as watchdog:` then `watchdog.beat(step)` after every step.

  Args:
    min_seconds: the deadline is never shorter than this.
    factor: the deadline in median step times, of the last 64.
    phase_seconds: deadlines of slow phases, on top of PHASE_SECONDS.
    tick: seconds between looks.
    expired: called with the message at the deadline; the default writes the stacks and exits with 75.

  A process that was stopped and continued (a closed laptop, SIGSTOP) is not taken for hanging: time counts only while
  the watching thread itself runs.
  """

  def __init__(self, *, min_seconds: float = 120.0, factor: float = 20.0,
               phase_seconds: dict[str, float] | None = None, tick: float = 1.0,
               expired: Callable[[str], None] | None = None):
    self.min_seconds, self.factor, self.tick = min_seconds, factor, tick
    self.phase_seconds = {**PHASE_SECONDS, **(phase_seconds or {})}
    self._expired = expired or exit_with_stacks
    self._times: collections.deque[float] = collections.deque(maxlen=64)
    self._phases: list[str] = []
    self._idle = 0.0
    self._step: int | None = None
    self._last_beat: float | None = None
    self._stop = threading.Event()
    self._thread: threading.Thread | None = None

  def beat(self, step: int) -> None:
    """A step is done."""
    now = time.monotonic()
    if self._last_beat is not None:
      self._times.append(now - self._last_beat)
    self._last_beat, self._step, self._idle = now, step, 0.0

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """What the run is in now; 'compile', 'save', 'eval', ... have their own deadline, 'data' and others a step's.

    A slow phase is left out of the step times, and the clock starts anew at its beginning and its end.
    """
    slow = name in self.phase_seconds
    self._phases.append(name)
    self._idle = 0.0 if slow else self._idle
    try:
      yield
    finally:
      self._phases.remove(name)
      if slow:
        self._idle, self._last_beat = 0.0, None

  @property
  def deadline(self) -> float:
    """Seconds without a step that are allowed now: the longest of the phases that the run is in, or a step's."""
    if self._step is None and not self._phases:
      return self.phase_seconds["start"]
    slow = [self.phase_seconds[p] for p in tuple(self._phases) if p in self.phase_seconds]
    median = statistics.median(tuple(self._times)) if self._times else 0.0
    return max([self.min_seconds, self.factor * median, *slow])

  def __enter__(self) -> "Watchdog":
    self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
    self._thread.start()
    return self

  def __exit__(self, *_: Any) -> None:
    self._stop.set()
    if self._thread is not None:
      self._thread.join()

  def _watch(self) -> None:
    before = time.monotonic()
    while not self._stop.wait(self.tick):
      now = time.monotonic()
      self._idle += min(now - before, 2 * self.tick)  # a longer gap is the whole process's pause
      before = now
      if self._idle > self.deadline:
        where = self._phases[-1] if self._phases else "the step"
        at = "before the first step" if self._step is None else f"step {self._step}"
        self._expired(f"no step for {self._idle:.0f} s ({at}, waiting in {where}); "
                      f"the limit is {self.deadline:.0f} s. Stopping with exit code {RestartError.exit_code}")
        return


def exit_with_stacks(message: str) -> None:
  """Writes the stacks of all threads and the message to stderr and ends the process, whatever its threads do."""
  sys.stderr.flush()
  faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
  os.write(2, f"{message}\n".encode())
  os._exit(RestartError.exit_code)
