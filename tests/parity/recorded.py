"""What every kind of recorded case shares: the tolerance, how far an array is from the recorded one, a file's parts."""

import math
import pathlib
from typing import Any

import numpy as np

ATOL, RTOL = 1e-4, 2e-5


def error(got: Any, want: np.ndarray, there: Any = ...) -> float:
  """The largest error in units of the tolerance, at the places `there`; inf for another shape or what is not finite."""
  if got is None or np.shape(got) != want.shape:
    return math.inf
  a, b = (np.asarray(x, np.float64)[there] for x in (got, want))
  return float((np.abs(a - b) / (ATOL + RTOL * np.abs(b))).max(initial=0.0)) if np.isfinite(a).all() else math.inf


def parts(file: pathlib.Path, *prefixes: str) -> list[dict[str, np.ndarray]]:
  """The arrays of an npz file whose names begin with each of these, by the rest of their names."""
  with np.load(file) as arrays:
    return [{n.removeprefix(p): arrays[n] for n in arrays.files if n.startswith(p)} for p in prefixes]
