"""What a run is planned to do, step by step: learning rate, length, batch, competence, mixture, knobs. Needs no data
and no devices: only the schedule of the learning rate and the curriculum's plans. schedule_figure.py draws it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llm_jax.core.types import Curriculum, Plan


def planned(steps: int, rate: Callable[[Any], Any], curriculum: Curriculum, points: int = 400) -> dict[str, Any]:
  """{'learning_rate': {'step': [...], 'value': [...], 'unit': ''}, 'length': ...}: what changes over the run, and the
  learning rate, each at the number that the update has in metrics.jsonl, from 1. Jumps of batch and length are met
  exactly. An adaptive curriculum is shown as it begins, and no update as skipped."""
  at = set(np.linspace(0, steps - 1, min(points, steps)).astype(int).tolist())
  at |= {s for change in curriculum.changes() for s in (change - 1, change) if 0 <= s < steps}
  where = sorted(at)
  state = curriculum.init()
  plans = [curriculum.plan(step, state) for step in where]
  found = {"learning_rate": (np.asarray(rate(np.asarray(where))).tolist(), "")}
  found |= {name: series for name, series in _series(plans).items() if len(set(series[0])) > 1 or "/" in name}
  rows = [step + 1 for step in where]
  return {name: {"step": rows, "value": values, "unit": unit} for name, (values, unit) in found.items()}


def _series(plans: Sequence[Plan]) -> dict[str, tuple[list[float], str]]:
  """{name: (one value per plan, unit)}."""
  found: dict[str, tuple[list[float], str]] = {
      "competence": ([p.admit for p in plans], "share of the rows admitted"),
      "length": ([p.length for p in plans], "tokens"), "batch": ([p.batch for p in plans], "examples")}
  for domain in sorted({d for p in plans for d in p.mixture or {}}):
    found[f"mixture/{domain}"] = [(p.mixture or {}).get(domain, 0.0) for p in plans], "share of the examples"
  for knob in sorted({k for p in plans for k in p.knobs}):
    found[knob.replace("/", ": ")] = [float(p.knobs.get(knob, 0.0)) for p in plans], ""
  return found
