"""Every schedule of a run over one axis of steps, so that a curriculum is seen against the learning rate: what an order
of the data does depends on the rate it meets (Luo et al. 2026)."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from llm_jax.training.formats import number
from llm_jax.training.plots import COLORS, STYLE

DASHES: Sequence[Any] = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))


def draw(series: Mapping[str, Mapping[str, Any]]) -> Figure:
  """All series over one axis of steps, each as a share of its largest value, which the legend names."""
  with mpl.rc_context(STYLE):
    figure = Figure(figsize=(7.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, one) in enumerate(series.items()):
      values = np.asarray(one["value"], float)
      top = 1.0 if name.startswith("mixture/") else max(float(np.abs(values).max()), 1e-30)
      steps_like = name in ("length", "batch") or name.startswith("mixture/")
      label = name.replace("_", " ").replace("mixture/", "mixture: ")
      label += "" if top == 1.0 else f", 1 = {number(top)} {one['unit']}".rstrip()
      dash = DASHES[i // len(COLORS) % len(DASHES)]
      axes.plot(one["step"], values / top, color=COLORS[i % len(COLORS)], linestyle=dash, label=label,
                drawstyle="steps-post" if steps_like else "default")
    axes.set_title("Schedules")
    axes.set_xlabel("step")
    axes.set_ylabel("share of the largest value")
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.05)
    axes.margins(x=0.01)
    figure.legend(loc="outside lower left", ncols=3)
    return figure
