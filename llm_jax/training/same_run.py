"""Is this checkpoint of the run that now wants to resume it? A resume under another model, tokenizer, data or
optimizer would train on without an error and mean nothing, so it is refused; other changes are allowed and printed.
"""

import re
from collections.abc import Mapping
from typing import Any

from llm_jax.core.errors import CheckpointError, shorten

# Dotted keys. Data is compared by its fingerprint (sources, tokenizer, rules), so that a folder may move.
MUST_AGREE = r"^(model|optimizer|peft|tokenizer|data\.tokenizer|(data[._])?fingerprint)(\.|$)"
# Of those, what may change in a resume: the schedule's lengths, and how the same numbers are computed.
MAY_CHANGE = (r"^optimizer\.(horizon|total|steps|warmup|cooldown)(_steps)?$"
              r"|^model\.(remat|scan|attention)$")


def check_same_run(saved: Mapping[str, Any], current: Mapping[str, Any], most: int = 6) -> list[str]:
  """Compares two resolved configs, each with the data's fingerprint under 'fingerprint' or 'data.fingerprint'.

  A key that only one side has is a note, not a difference: it is a knob that one version of the code did not know.

  Returns:
    One line per change that is allowed, to print.

  Raises:
    CheckpointError: model, tokenizer, data or optimizer differ; names the keys and both values.
  """
  old, new = flat(saved), flat(current)
  refused: list[str] = []
  notes: list[str] = []
  for key in sorted(old.keys() | new.keys()):
    if key not in old or key not in new:
      notes.append(f"{key}: {'not set' if key not in old else _show(old[key])} when saved, "
                   f"{'not set' if key not in new else _show(new[key])} now")
    elif old[key] != new[key]:
      strict = re.search(MUST_AGREE, key) and not re.search(MAY_CHANGE, key)
      (refused if strict else notes).append(f"{key}: {_show(old[key])} when saved, {_show(new[key])} now")
  if refused:
    more = [f"... ({len(refused)} in all)"] if len(refused) > most else []
    raise CheckpointError("the checkpoints in this workdir are of another run\n" +
                          "".join(f"  {line}\n" for line in refused[:most] + more) +
                          "  to start from its weights only: --init_from=THIS_WORKDIR with a new --workdir")
  return notes


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """{dotted key: value} of a nested config; tuples become lists, as they do in JSON."""
  found: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, Mapping) and value:
      found |= flat(value, f"{prefix}{key}.")
    else:
      found[f"{prefix}{key}"] = _as_json(value)
  return found


def _as_json(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {str(k): _as_json(v) for k, v in value.items()}
  return [_as_json(v) for v in value] if isinstance(value, list | tuple) else value


def _show(value: Any) -> str:
  return shorten(repr(value), 60)
