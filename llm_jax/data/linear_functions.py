"""In-context linear regression: each row is a prompt of points of one random linear function (Garg et al. 2022).

    x ~ N(0, I_d),   w ~ N(0, I_d),   y = w.x,   row: x_1, y_1, ..., x_n, y_n, predict each y from what is before it

Plans pace it by two knobs: `n_dims` sets the last d - n_dims coordinates of x to 0, `n_points` (or the row's length, a
bucket) says how many points count. Held-out rows are always complete.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Plan
from llm_jax.data.corpus import Corpus, DataContext
from llm_jax.data.episodes import generator
from llm_jax.data.fingerprint import digest

FIELDS = {"inputs": "(B, L, d) float32: x", "targets": "(B, L) float32: y",
          "weights": "(B, L) float32: 1 where it counts"}


@dataclasses.dataclass(frozen=True)
class LinearFunctions:
  """A DataSource of fresh functions for ever; plan.length is the number of points. key: names the draws."""

  dimensions: int
  noise: float
  key: str
  fingerprint: str
  rows: int | None = None  # of an evaluation set; None: endless
  fields: Mapping[str, str] = dataclasses.field(default_factory=lambda: FIELDS)
  boundaries: bool = False
  bytes_per_token: float | None = None  # nothing here is text

  def batches(self, batch: int, length: int) -> int:
    """Steps in a pass of an evaluation set."""
    assert self.rows is not None
    return -(-self.rows // batch)

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch:
    """Rows `rows` (default all) of the batch of `step`: a shorter row is the head of the longer one of that step."""
    random, B, d = generator(self.key, step), plan.batch, self.dimensions
    w_BD = random.standard_normal((B, d), np.float32)
    x_BLD = random.standard_normal((plan.length, B, d), np.float32).swapaxes(0, 1)  # point by point
    noise_BL = generator(self.key, step, "noise").standard_normal((plan.length, B), np.float32).T * self.noise
    x_BLD[..., round(plan.knobs.get("n_dims", d)):] = 0.0
    weights = np.broadcast_to(np.arange(plan.length) < plan.knobs.get("n_points", plan.length), (B, plan.length))
    if self.rows is not None:
      weights = weights & (step * B + np.arange(B) < self.rows)[:, None]
    y_BL = np.einsum("bld,bd->bl", x_BLD, w_BD) + noise_BL
    batch = {"inputs": x_BLD, "targets": y_BL.astype(np.float32), "weights": weights.astype(np.float32)}
    return {name: a[rows] for name, a in batch.items()} if rows is not None else batch


def build(context: DataContext, *, dimensions: int = 20, noise: float = 0.0, eval_rows: int = 1280) -> Corpus:
  """Random linear functions.

  Args:
    dimensions: d, the width of x.
    noise: deviation of what is added to y.
    eval_rows: held-out prompts.

  Raises:
    ConfigError: a width below 1.
  """
  if dimensions < 1:
    raise ConfigError("config.data.dimensions", f"got {dimensions}", accepted="a whole number from 1")
  name = digest("linear functions", dimensions, noise)
  train: Any = LinearFunctions(dimensions, noise, f"{context.seed}/linear functions", name)
  held_out = LinearFunctions(dimensions, noise, "linear functions, evaluation", digest(name, eval_rows), eval_rows)
  return Corpus(None, train, {"validation": held_out}, name,
                f"linear functions of {dimensions} dimensions, noise {noise:g}, fresh prompts", None)


def least_squares(x_ND: np.ndarray, y_N: np.ndarray, query_D: np.ndarray) -> float:
  """The prediction at `query_D` of the shortest w that fits the points; 0 without points."""
  return float(query_D @ np.linalg.lstsq(x_ND, y_N, rcond=None)[0]) if len(x_ND) else 0.0


def nearest_neighbours(x_ND: np.ndarray, y_N: np.ndarray, query_D: np.ndarray, k: int = 3) -> float:
  """The mean y of the k nearest points; 0 without points."""
  near = np.argsort(((x_ND - query_D) ** 2).sum(1), kind="stable")[:k]
  return float(y_N[near].mean()) if len(near) else 0.0


def averaging(x_ND: np.ndarray, y_N: np.ndarray, query_D: np.ndarray) -> float:
  """The prediction with w = mean of x y; 0 without points."""
  return float(query_D @ (x_ND * y_N[:, None]).mean(0)) if len(x_ND) else 0.0


BASELINES = {"least squares": least_squares, "3 nearest neighbours": nearest_neighbours, "averaging": averaging}


def baseline_errors(batch: Batch, dimensions: int) -> dict[str, np.ndarray]:
  """{baseline: (L,) mean squared error / d after 0, 1, ... points of the prompt}."""
  x, y = batch["inputs"].astype(np.float64), batch["targets"].astype(np.float64)
  errors = lambda predict: np.array([
      [(predict(x[b, :i], y[b, :i], x[b, i]) - y[b, i]) ** 2 for i in range(x.shape[1])] for b in range(len(x))])
  return {name: errors(predict).mean(0) / dimensions for name, predict in BASELINES.items()}
