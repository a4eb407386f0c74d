"""Text from tokens that come one by one: only complete characters, and nothing of a stop string.

A character may be spread over tokens and a stop string may begin in the middle of one, so text is held back while it
may still be either. What was handed out is never taken back: joined, the pieces are the decoded text up to the first
stop string, wherever the tokens' boundaries lie.
"""

from collections.abc import Callable, Sequence

TORN = "�"  # what decoders show for bytes that are not yet a character
LONGEST_TORN = 3  # bytes of an incomplete UTF-8 character, each of which may show as one TORN
WINDOW, KEPT = 48, 12  # tokens decoded at once, and those kept as left context when the window moves on


class TextStream:
  """`push(token)` -> text that is now certain; `finish()` -> the rest.

  stopped: a stop string was found; text: all that was handed out.
  """

  def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()):
    self._decode, self._stop = decode, tuple(s for s in stop if s)
    self._window: list[int] = []
    self._taken = 0  # characters of the decoded window that have been taken over
    self._held = ""  # taken over, but may be the beginning of a stop string
    self.text, self.stopped = "", False

  def push(self, token: int) -> str:
    """Text that this token makes certain; empty once stopped."""
    if self.stopped:
      return ""
    self._window.append(token)
    decoded = self._decode(self._window)
    whole = decoded.rstrip(TORN)
    whole = decoded[: max(len(whole), len(decoded) - LONGEST_TORN)]
    piece = self._release(whole[self._taken:])
    self._taken = max(self._taken, len(whole))
    if len(self._window) >= WINDOW and whole == decoded:
      self._window = self._window[-KEPT:]
      self._taken = len(self._decode(self._window))
    return piece

  def finish(self) -> str:
    """What was held back: a torn character, or the beginning of a stop string that did not come."""
    if self.stopped:
      return ""
    piece = self._release(self._decode(self._window)[self._taken:] if self._window else "")
    rest, self._held = self._held, ""
    self._window, self._taken = [], 0
    self.text += rest if not self.stopped else ""
    return piece + (rest if not self.stopped else "")

  def _release(self, new: str) -> str:
    """Adds certain characters -> what may be handed out."""
    text = self._held + new
    found = [(at + len(s), at) for s in self._stop if (at := text.find(s)) >= 0]
    if found:
      self.stopped, cut, self._held = True, min(found)[1], ""
    else:
      cut = len(text) - max((n for s in self._stop for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
      self._held = text[cut:]
    self.text += text[:cut]
    return text[:cut]
