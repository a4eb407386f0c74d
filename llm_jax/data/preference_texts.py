"""What a row of a preference data set says: a prompt with a preferred and another completion, or with one completion
and whether it is wanted.

A text is a string, or a list of messages {role, content}, which is written as `role: content` and an empty line for
each. A pair without a prompt holds it in both completions (Anthropic's HH): the messages that both begin with, or the
characters up to the last "Assistant:" that they share, or up to the last space where there is none. Labels and margins
may be written as text, as they are in a .csv.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from llm_jax.core.errors import shorten
from llm_jax.data.row_files import lacking

LABELS = {"0": False, "1": True, "false": False, "true": True}
LARGEST = 3.4e38  # that a margin may be: it becomes a float32
ANSWER = "\n\nAssistant:"


class Pair(NamedTuple):
  """margin: by how much the first is better; 0 where the data do not say."""

  prompt: str
  chosen: str
  rejected: str
  margin: float = 0.0


class Judged(NamedTuple):
  """One completion, wanted or not."""

  prompt: str
  completion: str
  wanted: bool


class UnfitRowError(ValueError):
  """A row that says no preference; the reason."""


def pair_of(row: Mapping[str, Any]) -> Pair:
  """The pair of a row with chosen, rejected and, as a rule, prompt; margin where there is one.

  Raises:
    UnfitRowError: a field is missing, empty or no text, the completions are the same, or the margin is no finite
      number.
  """
  chosen, rejected = _field(row, "chosen"), _field(row, "rejected")
  if row.get("prompt") is None:
    prompt, chosen, rejected = _common(chosen, rejected)
  else:
    prompt, chosen, rejected = _field(row, "prompt"), rendered(chosen, "chosen"), rendered(rejected, "rejected")
  if chosen == rejected:
    raise UnfitRowError("chosen and rejected are the same")
  return Pair(rendered(prompt, "prompt"), chosen, rejected, _margin(row.get("margin")))


def judged_of(row: Mapping[str, Any]) -> list[Judged]:
  """What a row says of single completions: its own with its label, or both of a pair.

  Raises:
    UnfitRowError: as `pair_of`; or the label is not true or false.
  """
  if "completion" not in row:
    pair = pair_of(row)
    return [Judged(pair.prompt, pair.chosen, True), Judged(pair.prompt, pair.rejected, False)]
  label = row.get("label")
  wanted = LABELS.get(label.strip().lower()) if isinstance(label, str) else label
  if wanted not in (0, 1):
    raise UnfitRowError(f"label is {shorten(repr(label), 80)}, neither true nor false")
  return [Judged(rendered(_field(row, "prompt"), "prompt"), rendered(row["completion"], "completion"), bool(wanted))]


def rendered(text: Any, name: str) -> str:
  """A text as one string.

  Raises:
    UnfitRowError: neither a string nor messages, or empty. name: of the field.
  """
  if isinstance(text, list) and all(isinstance(m, Mapping) and isinstance(m.get("content"), str) for m in text):
    text = "".join(f"{m.get('role', 'user')}: {m['content']}\n\n" for m in text)
  if not isinstance(text, str):
    raise UnfitRowError(f"{name} is {shorten(repr(text), 80)}, neither text nor a list of messages")
  if not text.strip():
    raise UnfitRowError(f"{name} is empty")
  return text


def _margin(given: Any) -> float:
  """0 where none is given: null, or an empty cell of a .csv."""
  if given is None or given == "":
    return 0.0
  try:
    margin = math.nan if isinstance(given, bool) or not isinstance(given, int | float | str) else float(given)
  except (ValueError, OverflowError):
    margin = math.nan
  if not abs(margin) < LARGEST:
    raise UnfitRowError(f"margin is {shorten(repr(given), 80)}, no finite number")
  return margin


def _field(row: Mapping[str, Any], name: str) -> Any:
  reason = lacking(row, (name,))
  if reason is not None:
    raise UnfitRowError(reason)
  return row[name]


def _common(chosen: Any, rejected: Any) -> tuple[str, str, str]:
  """(prompt, chosen, rejected) of completions that both hold the prompt."""
  if isinstance(chosen, list) and isinstance(rejected, list):
    shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected)) if a != b), min(len(chosen), len(rejected)))
    cut: tuple[Any, ...] = (chosen[:shared], chosen[shared:], rejected[shared:])
    return tuple(map(rendered, cut, ("prompt", "chosen", "rejected")))  # type: ignore[return-value]
  chosen, rejected = rendered(chosen, "chosen"), rendered(rejected, "rejected")
  if chosen == rejected:
    raise UnfitRowError("chosen and rejected are the same")
  prefix = chosen[:next((i for i, (a, b) in enumerate(zip(chosen, rejected)) if a != b), None)]
  answer, spaces = prefix.rfind(ANSWER), [m.start() for m in re.finditer(r"\s+", prefix)]
  end = answer + len(ANSWER) if answer >= 0 else spaces[-1] if spaces else 0
  if not prefix[:end].strip():
    raise UnfitRowError("no 'prompt', and chosen and rejected have no beginning in common")
  return prefix[:end], rendered(chosen[end:], "chosen"), rendered(rejected[end:], "rejected")
