"""No curriculum: the same batch size, length and mixture at every step."""

import dataclasses
from typing import Any

from llm_jax.core.types import Curriculum, Plan


@dataclasses.dataclass(frozen=True)
class Constant(Curriculum):
  """Every plan is the same."""

  batch: int
  length: int

  def plan(self, step: int, state: Any) -> Plan:
    return Plan(self.batch, self.length)


def build(steps: int, batch: int, length: int) -> Constant:
  """The constant plan of `batch` examples of `length` tokens over a run of `steps`."""
  return Constant(batch, length)
