"""From a published size and a user's own numbers to a model's sizes: what every architecture's `build` begins with."""

from collections.abc import Mapping
from typing import Any

from llm_jax.core.errors import ConfigError, unknown_name


def chosen(variants: Mapping[str, Mapping[str, Any]], variant: str, **given: Any) -> dict[str, Any]:
  """The sizes of `variant`, with those of `given` that are not None in their place.

  Raises:
    ConfigError: no such variant.
  """
  if variant not in variants:
    raise unknown_name("config.model.variant", variant, list(variants))
  return {**variants[variant], **{name: size for name, size in given.items() if size is not None}}


def with_positions(sizes: Mapping[str, Any], length: int, positions: int | None, *, usual: int = 512,
                   first: int = 0) -> dict[str, Any]:
  """`sizes` with a table of positions for rows of `length`: `positions` rows, or enough of them.

  Args:
    usual: rows where neither the user nor the variant says how many. first: row of a text's first position.

  Raises:
    ConfigError: `positions` rows are too few.
  """
  rows = positions if positions is not None else max(sizes.get("positions", usual), first + length)
  if rows < first + length:
    raise ConfigError("config.model.positions", f"{positions} positions for rows of {length} tokens",
                      accepted=f"at least {first + length}")
  return {**sizes, "positions": rows}
