"""In-context linear regression: each row is a prompt of points of one random linear function (Garg et al. 2022).

    x ~ N(0, I_d),   w ~ N(0, I_d),   y = w.x,   row: x_1, y_1, ..., x_n, y_n, predict each y from what is before it

Plans pace it by two knobs: `n_dims` sets the last d - n_dims coordinates of x to 0, `n_points` (or the row's length, a
bucket) says how many points count. Held-out rows are always complete.

With `pool` the rows are so many prompts with ids, each with its own number of active dimensions from 1 to d, which is
its structure.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Plan
from llm_jax.data.corpus import Corpus, DataContext
from llm_jax.data.episodes import generator, paced
from llm_jax.data.fingerprint import digest
from llm_jax.data.pool import Pool, checked_size

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
    x_BLD[..., paced(plan, "n_dims", d, 1):] = 0.0
    weights = points_that_count(plan, B)
    if self.rows is not None:
      weights = weights & (step * B + np.arange(B) < self.rows)[:, None]
    y_BL = np.einsum("bld,bd->bl", x_BLD, w_BD) + noise_BL
    batch = {"inputs": x_BLD, "targets": y_BL.astype(np.float32), "weights": weights.astype(np.float32)}
    return {name: a[rows] for name, a in batch.items()} if rows is not None else batch


def of_ids(ids: np.ndarray, plan: Plan, *, dimensions: int, noise: float) -> Batch:
  """The prompts of a pool with these ids."""
  x_RLD = np.zeros((len(ids), plan.length, dimensions), np.float32)
  y_RL = np.zeros((len(ids), plan.length), np.float32)
  for r, i in enumerate(ids.tolist()):
    random = generator("linear functions pool", dimensions, i)
    active = min(int(random.integers(1, dimensions, endpoint=True)), paced(plan, "n_dims", dimensions, 1))
    w_D = random.standard_normal(dimensions, np.float32)
    x_RLD[r, :, :active] = random.standard_normal((plan.length, dimensions), np.float32)[:, :active]
    y_RL[r] = np.einsum("ld,d->l", x_RLD[r], w_D)  # the same sum for a row and for its head
    if noise:
      y_RL[r] += generator("linear functions pool, noise", dimensions, i).standard_normal(plan.length) * noise
  return {"inputs": x_RLD, "targets": y_RL, "weights": points_that_count(plan, len(ids)).astype(np.float32)}


def points_that_count(plan: Plan, rows: int) -> np.ndarray:
  """(rows, L) bool: the first n_points of each row."""
  return np.broadcast_to(np.arange(plan.length) < plan.knobs.get("n_points", plan.length), (rows, plan.length))


def active_dimensions(rows: Batch) -> np.ndarray:
  """(R,) coordinates of x that are not 0 throughout."""
  return (rows["inputs"] != 0).any(1).sum(-1)


def build(context: DataContext, *, dimensions: int = 20, noise: float = 0.0, pool: int = 0,
          eval_rows: int = 1280) -> Corpus:
  """Random linear functions.

  Args:
    dimensions: d, the width of x.
    noise: deviation of what is added to y.
    pool: train on so many prompts over and over, which can be ranked by their structure; 0 draws fresh ones for ever.
    eval_rows: held-out prompts.

  Raises:
    ConfigError: a width below 1.
  """
  if dimensions < 1:
    raise ConfigError("config.data.dimensions", f"got {dimensions}", accepted="a whole number from 1")
  name = digest("linear functions", dimensions, noise)
  train: Any = LinearFunctions(dimensions, noise, f"{context.seed}/linear functions", name)
  if checked_size(pool):
    train = Pool(pool, partial(of_ids, dimensions=dimensions, noise=noise), active_dimensions, context.seed,
                 digest(name, pool), FIELDS)
  held_out = LinearFunctions(dimensions, noise, "linear functions, evaluation", digest(name, eval_rows), eval_rows)
  what = (f"linear functions of {dimensions} dimensions, noise {noise:g}, "
          f"{f'{pool:,}' if pool else 'fresh'} prompts")
  return Corpus(None, train, {"validation": held_out}, train.fingerprint, what, None)


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
