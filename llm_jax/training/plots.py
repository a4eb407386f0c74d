"""The plots of a run, shared by the report and the notebooks: panels in, matplotlib figures out.

Colours are the Okabe-Ito palette, which the common kinds of colour blindness can tell apart. Figures are made without
pyplot, so that nothing is kept and no display is needed. What belongs into which figure is decided in panels.py.
"""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from llm_jax.training.formats import si
from llm_jax.training.panels import Line, Panel, panels

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY, RED = "#8a8f98", "#b00020"
MOST_POINTS = 2_000
STYLE: Any = {  # matplotlib types these names one by one
    "font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#9aa0a8",
    "axes.linewidth": 0.7, "axes.labelcolor": "#4a4f57", "axes.titlelocation": "left", "axes.titlesize": 10,
    "axes.titleweight": "bold", "axes.titlecolor": "#1d2129", "axes.titlepad": 9, "axes.grid": True,
    "grid.color": "#e8eaee", "grid.linewidth": 0.7, "axes.axisbelow": True, "xtick.color": "#9aa0a8",
    "ytick.color": "#9aa0a8", "xtick.labelcolor": "#4a4f57", "ytick.labelcolor": "#4a4f57", "xtick.major.size": 0,
    "ytick.major.size": 0, "legend.frameon": False, "legend.fontsize": 8, "legend.handlelength": 1.3,
    "legend.columnspacing": 1.2, "lines.linewidth": 1.6, "text.parse_math": False, "figure.facecolor": "white",
    "axes.unicode_minus": True, "svg.fonttype": "none",
}


def figures(rows: Iterable[Mapping[str, Any]],
            schedules: Mapping[str, Mapping[str, Any]] | None = None) -> list[Figure]:
  """Every figure of a run, most wanted first; see `llm_jax.training.panels.panels` for the arguments."""
  return [draw(panel) for panel in panels(rows, schedules)]


def draw(panel: Panel) -> Figure:
  """The figure of one panel."""
  with mpl.rc_context(STYLE):
    figure = Figure(figsize=(5.8, 2.9), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(panel.title)
    axes.set_xlabel("step")
    axes.set_ylabel(panel.unit)
    if panel.stacked:
      _draw_stack(axes, panel)
    else:
      _draw_lines(axes, panel)
    axes.margins(x=0.015)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1e6:g}M" if abs(x) >= 1e6 else f"{x:,.0f}"))
    if axes.get_xlim()[1] - axes.get_xlim()[0] < 1:  # a single step
      axes.set_xlim(axes.get_xlim()[0] - 1, axes.get_xlim()[1] + 1)
    labels = axes.get_legend_handles_labels()[1]
    if len(labels) > 1 or labels not in ([], ["train"], ["planned"]):
      few = sum(map(len, labels)) + 4 * len(labels) + 1.4 * len(panel.title) < 75
      place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.2} if few else {"loc": "best"}
      axes.legend(ncols=len(labels) if few else 2, **place)
    return figure


def _draw_lines(axes: Axes, panel: Panel) -> None:
  colors = _colors(panel.lines)
  for line, color in zip(panel.lines, colors, strict=True):
    finite = np.isfinite(line.values)
    steps, values = line.steps[finite], line.values[finite]
    x, y = thin(steps, values)
    marker = "o" if len(x) == 1 or (line.kind == "points" and len(x) <= 60) else None
    if line.kind == "plan":
      axes.plot(x, y, color=color, linestyle=(0, (4, 2)), linewidth=1.2, label=line.label, zorder=1)
    elif line.kind == "noisy" and len(steps) >= 60:
      axes.plot(x, y, color=color, linewidth=0.6, alpha=0.3)
      axes.plot(*thin(steps, moving_average(values)), color=color, label=line.label)
    else:
      axes.plot(x, y, color=color, marker=marker, markersize=3.2, label=line.label)
    if not finite.all():
      axes.plot(line.steps[~finite], np.full((~finite).sum(), 0.985), "v", color=RED, markersize=4.5, clip_on=False,
                transform=axes.get_xaxis_transform(), label=f"{(~finite).sum()} not finite")
  _scale(axes, panel)


def _colors(lines: Sequence[Line]) -> list[str]:
  """Training and evaluation keep their colours in every plot; the others take what is left in order."""
  fixed = {"train": COLORS[0], "eval": COLORS[1]}
  free = iter(COLORS[2 if any(line.label in fixed for line in lines) else 0:] * len(lines))
  return [GREY if line.kind == "plan" else fixed.get(line.label) or next(free) for line in lines]


def _draw_stack(axes: Axes, panel: Panel) -> None:
  steps = panel.lines[0].steps
  parts = np.nan_to_num(np.stack([line.values for line in panel.lines]))
  bins = np.array_split(np.arange(len(steps)), min(len(steps), 400))
  x = np.array([steps[part].mean() for part in bins])
  y = np.stack([[row[part].mean() for part in bins] for row in parts])
  if len(x) == 1:
    x, y = np.array([x[0] - 0.5, x[0] + 0.5]), np.repeat(y, 2, axis=1)
  axes.stackplot(x, y, colors=[COLORS[i] for i in (4, 1, 0)][: len(y)] if len(y) <= 3 else COLORS, alpha=0.85,
                 labels=[line.label for line in panel.lines], linewidth=0)
  total = y.sum(axis=0)
  top = min(total.max(), 1.5 * np.median(total))  # a first step that compiles must not hide the rest
  axes.set_ylim(0, top * 1.1 or 1)
  axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: tick(v)))


def _scale(axes: Axes, panel: Panel) -> None:
  """A logarithmic axis where the values spread widely, otherwise a linear one, and tick labels that read well."""
  values = np.concatenate([line.values for line in panel.lines] or [np.zeros(0)])
  values = values[np.isfinite(values)]
  if panel.log and len(values) and values.min() > 0 and values.max() / values.min() > 3:
    axes.set_yscale("log")
    subs = (1, 1.5, 2, 3, 5, 7) if values.max() / values.min() < 30 else (1, 3)
    axes.yaxis.set_major_locator(LogLocator(subs=subs if values.max() / values.min() < 1e4 else (1,), numticks=12))
    axes.yaxis.set_minor_locator(NullLocator())
  elif panel.zero and len(values) and values.min() >= 0:
    axes.set_ylim(0, values.max() * 1.12 or 1)
  axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: tick(v)))


def tick(value: float) -> str:
  """A short spelling of a round number: 0.0006 -> '6e-4', 35_000 -> '35k', 2.5e12 -> '2.5T', 0.25 -> '0.25'."""
  if abs(value) >= 1_000:
    digits, prefix = re.fullmatch(r"(.*?)([kMGTPE]?)", si(value)).groups()  # type: ignore[union-attr]
    return f"{float(digits):g}{prefix}"
  if value and abs(value) < 1e-3:
    digits, power = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(power)}"
  return f"{value:.6g}"


def thin(steps: np.ndarray, values: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
  """At most `most` points that look like all of them: the least and the greatest of each of `most / 2` bins, so that no
  spike is lost."""
  if len(steps) <= most:
    return steps, values
  kept: set[int] = {0, len(steps) - 1}
  for part in np.array_split(np.arange(len(steps)), most // 2 - 1):
    kept |= {int(part[values[part].argmin()]), int(part[values[part].argmax()])}
  index = np.array(sorted(kept))
  return steps[index], values[index]


def moving_average(values: np.ndarray, width: int | None = None) -> np.ndarray:
  """Centred mean over `width` neighbours (a fiftieth of all, at least 5).

  At the start, where a loss is steep, the window shrinks on both sides; at the end, where it is flat, on the right
  only, so that the last value is not a single one.
  """
  half = (width or max(5, len(values) // 50)) // 2
  sums = np.concatenate([[0.0], np.cumsum(values)])
  at = np.arange(len(values))
  first = at - np.minimum(at, half)
  last = np.minimum(at + np.minimum(at, half), len(values) - 1)
  return (sums[last + 1] - sums[first]) / (last + 1 - first)


def svg(figure: Figure) -> str:
  """The figure as one <svg> element to put into a page: no width of its own, the page's font, the same bytes always."""
  title = figure.axes[0].get_title(loc="left") if figure.axes else ""
  file = io.StringIO()
  with mpl.rc_context(STYLE | {"svg.hashsalt": f"llm_jax {title}"}):
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
  text = file.getvalue()
  text = text[text.index("<svg"):]
  text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
  text = re.sub(r'<g id="[^"]*"', "<g", text)
  tag, rest = text.split(">", 1)
  return re.sub(r' (width|height)="[^"]*"', "", tag) + ">" + rest
