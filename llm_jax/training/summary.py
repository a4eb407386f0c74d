"""What one wants to know of a run before any plot: headline numbers, best and last of each metric, what went wrong."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from llm_jax.training.formats import duration, number, percent, si
from llm_jax.training.metrics import KNOWN

LOWER_IS_BETTER = ("loss", "bits_per_byte", "perplexity")
HIGHER_IS_BETTER = ("accuracy", "f1", "exact_match", "bleu")


@dataclasses.dataclass(frozen=True)
class Tile:
  """One headline number with its name above and a note below."""

  name: str
  value: str
  note: str = ""


@dataclasses.dataclass(frozen=True)
class Numbers:
  """One metric over the run, as it reads: '' where there is no such number (a best learning rate)."""

  name: str
  last: str
  last_step: str
  best: str
  best_step: str
  median: str
  unit: str
  meaning: str


def best(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[int, float] | None:
  """(step, value) of the best finite value of a metric; None if it has none or if better has no meaning for it."""
  kind = name.split("/")[1]
  found = [(row["step"], row[name]) for row in rows if _finite(row.get(name))]
  if not found or kind not in LOWER_IS_BETTER + HIGHER_IS_BETTER:
    return None
  return (min if kind in LOWER_IS_BETTER else max)(found, key=lambda item: item[1])


def tiles(rows: Sequence[Mapping[str, Any]], status: Mapping[str, Any], parameters: Any) -> list[Tile]:
  """The headline: best evaluation, how far the run is, what it cost. What is unknown is left out."""
  last = {name: value for row in rows for name, value in row.items()}
  found = []
  for name, title in (("eval/loss", "Best eval loss"), ("eval/bits_per_byte", "Best bits per byte")):
    if (top := best(rows, name)) is not None:
      found.append(Tile(title, f"{top[1]:.4f}", f"step {number(top[0])}, last {last[name]:.4f}"))
  if "train/loss" in last:
    found.append(Tile("Train loss", f"{last['train/loss']:.4f}", "last logged row"))
  if rows:
    total = status.get("total_steps")
    share = f"{percent(rows[-1]['step'] / total)} of {number(total)}" if total else ""
    found.append(Tile("Steps", number(rows[-1]["step"]), share))
  if "train/tokens" in last:
    found.append(Tile("Tokens", si(last["train/tokens"]), "positions processed"))
  if (rate := _median(rows, "train/tokens_per_second")) is not None:
    mfu, flops = _median(rows, "train/mfu"), _median(rows, "train/flops_per_second")
    note = f"MFU {percent(mfu)}" if mfu is not None else si(flops, "FLOP/s") if flops is not None else ""
    found.append(Tile("Tokens per second", si(rate), " · ".join(["median", note] if note else ["median"])))
  if (seconds := _elapsed(rows)) is not None:
    found.append(Tile("Training time", duration(seconds), "restarts included"))
  listed = parameters.get("parameters", []) if isinstance(parameters, Mapping) else parameters
  if count := sum(row.get("count", 0) for row in listed or []):
    found.append(Tile("Parameters", si(count), f"{len(listed)} arrays"))
  return found


def numbers(rows: Sequence[Mapping[str, Any]]) -> list[Numbers]:
  """Best, last and median of every metric, in the order in which the project lists them, then the others."""
  names = dict.fromkeys(name for row in rows for name, value in row.items() if isinstance(value, int | float))
  names.pop("step", None)
  found = []
  whole = lambda name: "/".join(name.split("/")[:2])  # of eval/loss/prose: eval/loss
  order = {name: place for place, name in enumerate(KNOWN)}
  for name in sorted(names, key=lambda name: order.get(whole(name), len(order))):
    step, last = [(row["step"], row[name]) for row in rows if name in row][-1]
    top, middle = best(rows, name), _median(rows, name)
    unit, meaning = KNOWN.get(whole(name), ("", ""))
    found.append(Numbers(name, _five(last), number(step), _five(top[1]) if top else "", number(top[0]) if top else "",
                         _five(middle) if middle is not None else "", unit, meaning if name in KNOWN else ""))
  return found


def notices(rows: Sequence[Mapping[str, Any]], status: Mapping[str, Any]) -> list[str]:
  """What the reader should know first: why the run stopped, numbers that are not finite, skipped updates."""
  found = []
  if status.get("reason"):
    found.append(f"{str(status.get('state', 'stopped')).capitalize()}: {status['reason']}")
  if not rows:
    found.append("metrics.jsonl has no rows yet.")
  wrong: dict[str, list[int]] = {}
  for row in rows:
    for name, value in row.items():
      if isinstance(value, float) and not math.isfinite(value):
        wrong.setdefault(name, []).append(row["step"])
  for name, steps in wrong.items():
    found.append(f"{name} is not finite at {number(len(steps))} logged step{'s' * (len(steps) > 1)}, "
                 f"first at step {number(steps[0])}.")
  skipped = max((row.get("train/skipped_updates") or 0 for row in rows), default=0)
  if skipped:
    found.append(f"The NaN and spike guard skipped {number(skipped)} update{'s' * (skipped > 1)}.")
  return found


def _five(value: float) -> str:
  """Five digits, zeros kept, so that a column of them aligns."""
  if not math.isfinite(value) or (value == int(value) and abs(value) < 1e7):
    return number(value)
  if abs(value) >= 1e4:
    return si(value) if abs(value) >= 1e6 else f"{value:,.0f}"
  return f"{value:#.5g}" if abs(value) >= 1e-3 else number(value)


def _finite(value: Any) -> bool:
  return isinstance(value, int | float) and math.isfinite(value)


def _median(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
  values = [row[name] for row in rows if _finite(row.get(name))]
  return statistics.median(values) if values else None


def _elapsed(rows: Sequence[Mapping[str, Any]]) -> float | None:
  """Seconds of all processes together: `time/elapsed` falls back towards 0 at each restart."""
  times = [float(row["time/elapsed"]) for row in rows if _finite(row.get("time/elapsed"))]
  gaps = [now - before if now >= before else now for before, now in zip([0.0, *times], times, strict=False)]
  return sum(gaps) if times else None
