"""The progress bar: one line on a terminal, a plain line every few seconds in a log file.

It is fed with numbers that the loop has already fetched for metrics.jsonl, so that it never makes the host wait for the
device. Events (an evaluation, a checkpoint, a warning) become lines of their own above the bar.
"""

import collections
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from llm_jax.training.formats import duration, number, percent, si

BAR = 24  # characters
WINDOW = 32  # updates that the speed behind the ETA is taken from


class Progress:
  """Shows step/total, loss, tokens/s, MFU (FLOP/s on unknown devices) and ETA on stderr.

  Args:
    total_steps: the step at which the run ends.
    start_step: the step that the run starts from, more than 0 after a resume.
    stream: where to write; a terminal gets a bar, anything else plain lines.
    every: seconds between plain lines; the first update and the last step always get one.
    enabled: False on all hosts but the first: nothing is shown.
    clock: seconds since any fixed moment; tests bring their own.
  """

  def __init__(self, total_steps: int, start_step: int = 0, *, stream: TextIO | None = None, every: float = 10.0,
               enabled: bool = True, clock: Callable[[], float] = time.monotonic):
    self.total, self.step = total_steps, start_step
    self._stream = sys.stderr if stream is None else stream
    self._clock, self._enabled = clock, enabled
    self._terminal = bool(getattr(self._stream, "isatty", lambda: False)())
    self._every = 0.1 if self._terminal else every  # a terminal is redrawn at most ten times a second
    self._shown_at = float("-inf")
    self._on_line = False
    self._seen: collections.deque[tuple[float, int]] = collections.deque(maxlen=WINDOW)

  def update(self, step: int, values: Mapping[str, Any]) -> None:
    """Shows `step` with the numbers of its metrics row (`train/loss`, ...); what is missing is left out."""
    self.step = step
    now = self._clock()
    self._seen.append((now, step))
    if self._enabled and (now - self._shown_at >= self._every or step >= self.total):
      self._shown_at = now
      self._show(self._parts(values))

  def event(self, text: str) -> None:
    """A line of its own: 'step 500: eval loss 1.93', 'checkpoint 500 saved'."""
    if self._enabled:
      self._clear()
      self._write(text + "\n")

  def eta(self) -> float:
    """Seconds to the last step at the speed of the last updates; NaN while unknown.

    The first update only starts the clock: the time before it holds the compilation.
    """
    if len(self._seen) < 2 or self._seen[-1][1] <= self._seen[0][1]:
      return float("nan")
    (t0, step0), (t1, step1) = self._seen[0], self._seen[-1]
    return (t1 - t0) / (step1 - step0) * max(0, self.total - step1)

  def close(self) -> None:
    """Ends the bar's line, so that what follows starts on a new one."""
    if self._on_line:
      self._write("\n")
      self._on_line = False

  def __enter__(self) -> "Progress":
    return self

  def __exit__(self, *exception: Any) -> None:
    self.close()

  def _parts(self, values: Mapping[str, Any]) -> list[str]:
    parts = []
    if "train/loss" in values:
      parts.append(f"loss {values['train/loss']:.4f}")
    if "train/tokens_per_second" in values:
      parts.append(f"{si(values['train/tokens_per_second'])} tokens/s")
    if "train/mfu" in values:
      parts.append(f"MFU {percent(values['train/mfu'])}")
    elif "train/flops_per_second" in values:
      parts.append(si(values["train/flops_per_second"], "FLOP/s"))
    return [*parts, f"ETA {duration(self.eta())}"]

  def _show(self, parts: list[str]) -> None:
    count = f"{number(self.step)}/{number(self.total)}"
    if not self._terminal:
      self._write(f"step {count} | " + " | ".join(parts) + "\n")
      return
    share = min(1.0, self.step / max(1, self.total))
    line = f"{count} {share:4.0%} "
    width = shutil.get_terminal_size().columns - 1
    body = "  ".join(parts)
    if len(line) + BAR + 2 + len(body) <= width:
      line += self._bar(share) + "  "
    self._clear()
    self._write((line + body)[:width])
    self._on_line = True

  def _bar(self, share: float) -> str:
    full, empty = ("━", "─") if "utf" in (getattr(self._stream, "encoding", None) or "").lower() else ("=", "-")
    done = round(share * BAR)
    return full * done + empty * (BAR - done)

  def _clear(self) -> None:
    if self._on_line:
      self._write("\r\x1b[2K")
      self._on_line = False

  def _write(self, text: str) -> None:
    self._stream.write(text)
    self._stream.flush()
