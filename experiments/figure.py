"""The figure of a study: each metric over steps, one colour per arm, the mean of its runs over the single runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from llm_jax.training.plots import COLORS, STYLE


def draw(runs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Figure:
  """One panel per metric. runs: as in results.json, each with 'arm' and 'curves'."""
  arms = list(dict.fromkeys(run["arm"] for run in runs))
  with mpl.rc_context(STYLE):
    figure = Figure(figsize=(5.4 * len(names), 3.2), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
      for arm, color in zip(arms, (COLORS * len(arms))[:len(arms)], strict=True):
        curves = [np.asarray(run["curves"][name], float).reshape(-1, 2) for run in runs if run["arm"] == arm]
        for curve in curves:
          axes.plot(curve[:, 0], curve[:, 1], color=color, linewidth=0.6, alpha=0.35)
        common = min(len(c) for c in curves)
        mean = np.mean([c[:common, 1] for c in curves], axis=0)
        axes.plot(curves[0][:common, 0], mean, color=color, label=f"{arm} ({len(curves)} runs)")
      axes.set_title(name)
      axes.set_xlabel("step")
      axes.legend()
    return figure
