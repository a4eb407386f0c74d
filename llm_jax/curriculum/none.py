"""No curriculum: the same batch size, length and mixture at every step."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from llm_jax.core.types import Plan


@dataclasses.dataclass(frozen=True)
class Constant:
  """Every plan is the same."""

  batch: int
  length: int
  adaptive: bool = False

  def init(self) -> Any:
    return {}

  def plan(self, step: int, state: Any) -> Plan:
    return Plan(self.batch, self.length)

  def observe(self, state: Any, step: int, metrics: Mapping[str, float]) -> Any:
    return state

  def shapes(self) -> set[tuple[int, int]]:
    return {(self.batch, self.length)}


def build(steps: int, batch: int, length: int) -> Constant:
  """The constant plan of `batch` examples of `length` tokens over a run of `steps`."""
  return Constant(batch, length)
