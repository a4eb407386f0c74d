"""Picking parameters by name: the one rule that weight decay, freezing, LoRA, sharding overrides and adaptation share.

A pattern is a regular expression searched in the dotted name (`re.search`), so `'bias$'` takes every bias and
`'^blocks'` the whole stack. A pattern that takes nothing is an error, because it is nearly always a typing mistake.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from llm_jax.core.errors import ConfigError, nearest_name


def select(names: Iterable[str], patterns: str | Iterable[str], key: str = "pattern") -> set[str]:
  """The names that any of the patterns takes.

  Raises:
    ConfigError: a pattern is not a regular expression, or takes no name at all.
  """
  names = list(names)
  taken: set[str] = set()
  for pattern in [patterns] if isinstance(patterns, str) else patterns:
    try:
      hits = {n for n in names if re.search(pattern, n)}
    except re.error as e:
      raise ConfigError(key, f"{pattern!r} is not a regular expression ({e})") from None
    if not hits:
      raise ConfigError(key, f"{pattern!r} takes no parameter", nearest=nearest_name(pattern, names),
                        accepted="a regular expression over names such as " + ", ".join(names[:4]))
    taken |= hits
  return taken


def mask(params: Mapping[str, Any], patterns: str | Iterable[str], key: str = "pattern") -> dict[str, bool]:
  """{name: is it taken by the patterns}, in the order of `params`."""
  taken = select(params, patterns, key)
  return {name: name in taken for name in params}


def difference(got: Iterable[str], want: Iterable[str], most: int = 4) -> str:
  """One line that says which names are missing and which are unexpected; '' when the sets agree."""
  missing, extra = sorted(set(want) - set(got)), sorted(set(got) - set(want))
  cut = lambda names: ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
  parts = [f"missing {cut(missing)}"] if missing else []
  parts += [f"unexpected {cut(extra)}"] if extra else []
  return "; ".join(parts)
