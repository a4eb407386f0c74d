"""Rows that have ids: what a source must offer for its rows to be scored once and admitted by difficulty."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch

# (domain, length) -> (row numbers from easy to hard, each exactly once; the share of rows that are not harder than
# each, so that rows of equal difficulty have the same)
Order = Callable[[str, int], tuple[np.ndarray, np.ndarray]]


@runtime_checkable
class Rankable(Protocol):
  """A DataSource whose rows have ids: windows of a text (data/windows.py), a pool of examples (data/pool.py)."""

  @property
  def domains(self) -> tuple[str, ...]: ...

  @property
  def content(self) -> str: ...  # changes when the rows do, not with the seed or the mixture

  def windows(self, length: int) -> Mapping[str, int]:
    """{domain: rows of `length`}."""

  def window_rows(self, domain: str, windows: np.ndarray, length: int) -> Batch:
    """These rows of a domain, for scoring."""

  def serving(self, *, order: Order | None = None, label_domains: bool = False) -> Any:
    """A source of the same rows that can admit by difficulty, and that says which domain each row is from."""


def admitted(order: Order | None, domain: str, length: int, count: int, admit: float) -> int:
  """How many of a domain's `count` rows are let in at competence `admit`.

  Raises:
    ConfigError: a part is to be let in, and nothing orders the rows.
  """
  if admit >= 1:
    return count
  if order is None:
    raise ConfigError("config.curriculum", f"admits {admit:g} of the data, but nothing orders it by difficulty")
  ranks = order(domain, length)[1]
  # At least the easiest are let in; they may be many that are equal.
  return int(np.searchsorted(ranks, max(admit + 1e-12, ranks[0]), side="right")) if len(ranks) else 0
