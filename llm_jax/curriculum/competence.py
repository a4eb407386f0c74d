"""Competence-based curriculum: from the easiest rows, more and more are admitted (Platanios et al. 2019).

Rows are ranked by a difficulty score: d is the share of rows that are not harder, so that rows of equal score are let
in together. Step t draws uniformly from the rows with d <= c(t); from c = 1 on every epoch is the uniform one. Two
controls tell whether an effect is due to difficulty: order 'random' has the same c(t) over shuffled rows, 'hard_first'
begins with the hardest (anti-curriculum).
"""

import dataclasses
from typing import Any, Literal

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Curriculum, Plan
from llm_jax.curriculum import pacing as pacings
from llm_jax.curriculum.pacing import Pacing

OrderName = Literal["easy_first", "hard_first", "random"]


@dataclasses.dataclass(frozen=True)
class Competence(Curriculum):
  """c(t) by pacing. scorer, scores, order: how the wiring is to rank the rows; see data/difficulty.py."""

  batch: int
  length: int
  pacing: Pacing
  scorer: dict
  scores: str | None
  order: OrderName
  sets: tuple[str, ...] = ("admit",)

  def plan(self, step: int, state: Any) -> Plan:
    return Plan(self.batch, self.length, admit=self.pacing(step))


def build(steps: int, batch: int, length: int, *, scorer: dict = {"name": "rarity"},  # noqa: B006, never changed
          scores: str | None = None, c0: float = 0.01, until: float = 0.3, pacing: str | dict | list = "sqrt",
          order: OrderName = "easy_first") -> Competence:
  """The admitted share of the rows grows from `c0` to all.

  Args:
    scorer: difficulty, a plug-in of data/scorers: its name or dict(name=..., its knobs).
    scores: folder that `python -m llm_jax.score` wrote; None scores now, kept in the cache folder.
    c0: share admitted at step 0.
    until: when all rows are admitted: steps, or a fraction of the run up to 1.
    pacing: name, dict(name=..., p=...) or stages [(first step, share), ...]; see curriculum/pacing.py.
    order: 'easy_first', or the controls 'random' (random pacing) and 'hard_first' (anti-curriculum).

  Raises:
    ConfigError: c0 is not a share.
  """
  if not 0 < c0 <= 1:
    raise ConfigError("config.curriculum.c0", f"got {c0}", accepted="above 0, at most 1")
  how = pacings.build(pacing, start=c0, end=1.0, until=until, steps=steps, key="config.curriculum.pacing")
  return Competence(batch, length, how, scorer, scores, order)
