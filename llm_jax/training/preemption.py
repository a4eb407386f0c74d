"""Stopping in good order: SIGTERM (a cluster takes the machine back) and Ctrl-C ask for a checkpoint and an end.

The first signal sets a flag that the loop polls between steps; the second quits at once, which is safe because a
half-written checkpoint is ignored. Signals arrive through a wake-up pipe in a thread of their own, because Python
runs handlers only between its own instructions, and the main thread can sit for minutes in a compilation.

With several processes JAX's preemption service holds SIGTERM and agrees on one step for all of them; here Ctrl-C
joins it, and `should_stop` asks it.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils


class Preemption:
  """`with Preemption() as preemption: ... if preemption.should_stop(step): save and stop`.

  Handlers are installed for the length of the block and only in the main thread (the only one that may); elsewhere
  only `request` stops the run.
  """

  def __init__(self, signals: Sequence[int] = (signal.SIGTERM, signal.SIGINT)):
    self.signals = tuple(signals)
    self.reason = ""
    self._flag = threading.Event()
    self._before: dict[int, Any] = {}
    self._pipe: tuple[socket.socket, socket.socket] | None = None
    self._thread: threading.Thread | None = None

  @property
  def requested(self) -> bool:
    """Has this process been asked to stop?"""
    return self._flag.is_set()

  def request(self, reason: str) -> None:
    """Asks for a stop after the current step, as a signal does."""
    self.reason = self.reason or reason
    self._flag.set()

  def should_stop(self, step: int) -> bool:
    """Save and stop now? With several processes every one must ask at every step, and all get True at the same one."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self.requested

  def __enter__(self) -> "Preemption":
    if threading.current_thread() is not threading.main_thread():
      return self
    read, write = socket.socketpair()
    write.setblocking(False)
    self._pipe = (read, write)
    self._wakeup_before = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
    # With several processes SIGTERM stays with JAX's service.
    ours = [s for s in self.signals if jax.process_count() == 1 or s != signal.SIGTERM]
    self._before = {s: signal.signal(s, lambda number, frame: None) for s in ours}
    self._thread = threading.Thread(target=self._listen, args=(read,), name="signals", daemon=True)
    self._thread.start()
    return self

  def __exit__(self, *_: Any) -> None:
    if self._pipe is None or self._thread is None:
      return
    for number, handler in self._before.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(self._wakeup_before)
    read, write = self._pipe
    write.close()  # ends the thread
    self._thread.join()
    read.close()
    self._pipe = self._thread = None

  def _listen(self, read: socket.socket) -> None:
    while received := read.recv(64):
      for number in received:
        if number in self._before:
          self._received(number)

  def _received(self, number: int) -> None:
    name = signal.Signals(number).name
    if self.requested:
      _say(f"{name} again: quitting at once")
      os._exit(128 + number)
    self.request(name)
    _say(f"{name}: will save a checkpoint and stop after this step; once more quits at once")
    if jax.process_count() > 1 and number != signal.SIGTERM:
      os.kill(os.getpid(), signal.SIGTERM)  # tells JAX's service, which tells the other processes


def _say(line: str) -> None:
  print(f"\n{line}", file=sys.stderr, flush=True)
