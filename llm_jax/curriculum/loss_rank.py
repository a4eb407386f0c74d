"""Loss-rank weighting: only a share of each batch counts, by the rank of its loss: the hardest (online hard example
mining, Shrivastava et al. 2016) or the easiest (trimmed loss, Shen and Sanghavi 2019)."""

from typing import Literal

import jax

from llm_jax.core.types import Losses
from llm_jax.curriculum import kept_share


def _loss(losses: Losses) -> jax.Array:
  return losses.values


def _ease(losses: Losses) -> jax.Array:
  return -losses.values


def build(steps: int, batch: int, length: int, *, start: float = 1.0, end: float = 0.5, until: float = 0.3,
          pacing: str | dict | list = "linear", which: Literal["hardest", "easiest"] = "hardest",
          unit: kept_share.Unit = "example") -> kept_share.KeptShare:
  """Only the share of the batch with the largest (or smallest) losses counts.

  Args:
    start: share kept at step 0.
    end: share kept from `until` on.
    until: steps, or a fraction of the run up to 1.
    pacing: name, dict(name=..., p=...) or stages [(first step, share), ...]; see curriculum/pacing.py.
    which: 'hardest' or 'easiest'.
    unit: rank examples by their mean loss, or tokens.

  Raises:
    ConfigError: a share out of range.
  """
  how = kept_share.paced(pacing, start=start, end=end, until=until, steps=steps, key="start")
  return kept_share.KeptShare(batch, length, how, unit, _loss if which == "hardest" else _ease)
