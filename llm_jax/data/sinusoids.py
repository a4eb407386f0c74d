"""Sine waves of unknown amplitude and phase: the regression tasks of Finn, Abbeel, Levine 2017, section 5.1, and of
Nichol, Achiam, Schulman 2018, section 4.1.

    y = amplitude * sin(x + phase),   amplitude ~ U[0.1, 5],   phase ~ U[0, pi],   x ~ U[-5, 5]
"""

import math
from functools import partial
from typing import Literal

import numpy as np

from llm_jax.core.types import Batch, Plan
from llm_jax.data.corpus import Corpus, DataContext
from llm_jax.data.episodes import Form, corpus, paced

FIELDS = {"inputs": "(.., 1) float32: x", "targets": "(.., 1) float32: y", "weights": "(..,) float32: 1 if it counts"}
Points = Literal["uniform", "grid"]


def build(context: DataContext, *, support: int = 10, query: int = 10, max_phase: float = math.pi,
          points: Points = "uniform", form: Form = "episodes", eval_support: int | None = None,
          eval_query: int = 100, eval_tasks: int = 2000) -> Corpus:
  """Sine waves.

  Args:
    support: points of a task to adapt on.
    query: other points of that task.
    max_phase: phases are uniform from 0 to this.
    points: 'uniform' x, or a 'grid' of `support` points of [-5, 5] in random order, which are the query too (Reptile).
    form: 'episodes', or 'examples': single points of a task each, for training without adaptation.
    eval_support: points to adapt on in evaluation; None is `support`.
    eval_query: points that held-out tasks are judged by; with a grid, the size of the grid.
    eval_tasks: held-out tasks.
  """
  family = partial(episodes, max_phase=max_phase, grid=points == "grid")
  in_episodes, singly = partial(family, support=support, query=query), partial(examples, max_phase=max_phase)
  train = in_episodes if form == "episodes" else singly
  held_out = partial(family, support=eval_support or support, query=eval_query)
  knobs = dict(support=support, query=query, max_phase=max_phase, points=points, eval_support=eval_support,
               eval_query=eval_query)
  return corpus("sinusoids", train, held_out, fields=FIELDS, seed=context.seed, tasks=eval_tasks, knobs=knobs,
                form=form, shots=eval_support or support)


def episodes(random: np.random.Generator, plan: Plan, *, support: int, query: int, max_phase: float,
             grid: bool) -> Batch:
  """plan.batch tasks, of whose support points the plan's k_shot count. On a grid of max(support, query) points the
  query is the whole grid."""
  T, k_shot = plan.batch, paced(plan, "k_shot", support)
  amplitude, phase = random.uniform(0.1, 5.0, (T, 1)), random.uniform(0.0, max_phase, (T, 1))
  if grid:
    x_TG = random.permuted(np.broadcast_to(np.linspace(-5, 5, max(support, query)), (T, max(support, query))), axis=1)
    parts = {"support": x_TG[:, :support], "query": x_TG[:, :query]}
  else:
    x = random.uniform(-5.0, 5.0, (T, support + query))
    parts = {"support": x[:, :support], "query": x[:, support:]}
  batch: Batch = {name: _fields(x, amplitude * np.sin(x + phase)) for name, x in parts.items()}
  batch["support"]["weights"][:, k_shot:] = 0.0
  return batch


def examples(random: np.random.Generator, plan: Plan, *, max_phase: float) -> Batch:
  """plan.batch points, each of a task of its own."""
  amplitude, phase, x = (random.uniform(low, high, plan.batch) for low, high in
                         ((0.1, 5.0), (0.0, max_phase), (-5.0, 5.0)))
  return _fields(x, amplitude * np.sin(x + phase))


def _fields(x: np.ndarray, y: np.ndarray) -> Batch:
  return {"inputs": x[..., None].astype(np.float32), "targets": y[..., None].astype(np.float32),
          "weights": np.ones(x.shape, np.float32)}
