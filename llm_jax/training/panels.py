"""What belongs into one plot: rows of metrics.jsonl and planned schedules in, panels out.

`train/loss` and `eval/loss` share a panel because they share the name after the room, the parts of a step's time are
stacked, a planned schedule lies behind what really happened. A metric that nobody announced gets a panel of its own, so
that a plug-in's numbers appear without a change here. plots.py draws the panels.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from llm_jax.training.formats import percent
from llm_jax.training.metrics import KNOWN

Kind = Literal["curve", "noisy", "points", "plan"]


@dataclasses.dataclass(frozen=True)
class Line:
  """One named series over steps. kind: curve; noisy, drawn pale under its moving average; points, with markers;
  plan, grey and dashed, behind the others."""

  label: str
  steps: np.ndarray
  values: np.ndarray
  kind: Kind = "curve"


@dataclasses.dataclass(frozen=True)
class Panel:
  """What one figure shows. stacked: the lines are parts of a whole; log: a logarithmic axis if the values spread
  widely; zero: the axis starts at 0; main: belongs to what one wants to see first."""

  title: str
  unit: str
  lines: tuple[Line, ...]
  stacked: bool = False
  log: bool = False
  zero: bool = False
  main: bool = True


@dataclasses.dataclass(frozen=True)
class Look:
  """How a metric is shown: scale multiplies its values into `unit`."""

  title: str
  unit: str = ""
  log: bool = False
  zero: bool = False
  noisy: bool = False
  scale: float = 1.0


STEP_TIME = "step time"
STEP_PARTS = ("time/data", "time/dispatch", "time/device")
# The part of a metric's name after its room -> how it looks; in the order of the report.
LOOKS: dict[str, Look] = {
    "loss": Look("Loss", "nat per token", log=True, noisy=True),
    "bits_per_byte": Look("Bits per byte", "bit per byte", log=True, noisy=True),
    "learning_rate": Look("Learning rate", zero=True),
    "gradient_norm": Look("Gradient norm", "L2, before clipping", log=True, noisy=True),
    "tokens_per_second": Look("Throughput", "tokens per second", zero=True, noisy=True),
    "mfu": Look("Model FLOP utilisation", "% of peak", zero=True, noisy=True, scale=100.0),
    STEP_TIME: Look("Step time"),
    "accuracy": Look("Accuracy", "%", noisy=True, scale=100.0),
    "length": Look("Sequence length", "tokens", zero=True),
    "batch": Look("Global batch", "examples", zero=True),
    "skipped_updates": Look("Skipped updates", "count", zero=True),
}
NO_PANEL = ("train/tokens", "time/elapsed", "time/step")  # a straight line, or shown otherwise


def series(rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """{name: (steps, values)} of every numeric metric, in the order of first appearance."""
  found: dict[str, tuple[list[int], list[float]]] = {}
  for row in rows:
    for name, value in row.items():
      if name != "step" and isinstance(value, int | float):
        steps, values = found.setdefault(name, ([], []))
        steps.append(row["step"])
        values.append(value)
  return {name: (np.asarray(steps), np.asarray(values, float)) for name, (steps, values) in found.items()}


def panels(rows: Iterable[Mapping[str, Any]], schedules: Mapping[str, Mapping[str, Any]] | None = None) -> list[Panel]:
  """What to draw of a run, most wanted first.

  Args:
    rows: of metrics.jsonl, see `llm_jax.training.metrics.rows`.
    schedules: planned series, `{'learning_rate': {'step': [...], 'value': [...], 'unit': ''}}`. A plan lies behind the
      metric of that name; one without a metric gets its own panel; `mixture/prose` and `mixture/code` share one.
  """
  metrics = series(rows)
  plans = {name: Line("planned", np.asarray(plan["step"]), np.asarray(plan["value"], float), "plan")
           for name, plan in (schedules or {}).items()}
  groups: dict[str, list[str]] = {}
  for name in metrics:
    if name not in STEP_PARTS + NO_PANEL:
      room, _, rest = name.partition("/")
      head, _, part = rest.partition("/")
      groups.setdefault(f"{room}/{head}" if room == "time" else head + ("/" if part else ""), []).append(name)
  if not any(metrics[name][1].any() for name in groups.get("skipped_updates", [])):
    groups.pop("skipped_updates", None)  # nothing was skipped
  found = {key: _group(key, names, metrics, plans) for key, names in groups.items()}
  if parts := _step_time(metrics):
    found[STEP_TIME] = parts
  order = [*LOOKS, *(key for key in found if key not in LOOKS)]
  chosen = [found[key] for key in sorted(found, key=lambda key: order.index(key))]
  return [p for p in chosen if p.main] + _plans(schedules or {}, plans) + [p for p in chosen if not p.main]


def _group(key: str, names: Sequence[str], metrics: Mapping[str, tuple[np.ndarray, np.ndarray]],
           plans: dict[str, Line]) -> Panel:
  """The panel of the metrics that share a name, with the plan of that name taken out of `plans`."""
  words = key.rstrip("/").replace("_", " ").replace("/", ": ")
  known = LOOKS.get(key.rstrip("/"))
  look = known or Look(words[:1].upper() + words[1:], KNOWN.get(names[0], ("", ""))[0])
  lines = [plans.pop(key)] if key in plans else []
  for name in names:
    room, _, rest = name.partition("/")
    steps, values = metrics[name]
    kind: Kind = "points" if room == "eval" else "noisy" if look.noisy else "curve"
    label = " ".join([room, *rest.split("/")[1:]])
    lines.append(Line(label, steps, values * look.scale, kind))
  title = look.title + (" by part" if key.endswith("/") else "")
  return Panel(title, look.unit, tuple(lines), log=look.log, zero=look.zero, main=known is not None)


def _step_time(metrics: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Panel | None:
  parts = {name.partition("/")[2]: metrics[name] for name in STEP_PARTS if name in metrics}
  if not parts:
    return None
  median = {part: float(np.nanmedian(values)) for part, (_, values) in parts.items()}
  whole = sum(median.values()) or 1.0
  scale, unit = (1.0, "s per step") if whole > 2 else (1e3, "ms per step")
  lines = tuple(Line(f"{part} {percent(median[part] / whole)}", steps, values * scale)
                for part, (steps, values) in parts.items())
  alike = all(np.array_equal(line.steps, lines[0].steps) for line in lines)
  return Panel(LOOKS[STEP_TIME].title, unit, lines, stacked=alike, zero=True)


def _plans(schedules: Mapping[str, Mapping[str, Any]], plans: Mapping[str, Line]) -> list[Panel]:
  """Panels of the plans that no metric was drawn over, `mixture/...` in one."""
  groups: dict[str, list[str]] = {}
  for name in plans:
    groups.setdefault(name.partition("/")[0], []).append(name)
  found = []
  for key, names in groups.items():
    lines = tuple(dataclasses.replace(plans[n], label=n.partition("/")[2] or "planned", kind="curve") for n in names)
    words = key.replace("_", " ")
    found.append(Panel(f"Planned {words}", str(schedules[names[0]].get("unit", "")), lines, zero=True))
  return found
