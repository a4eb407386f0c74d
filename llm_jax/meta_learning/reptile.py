"""Reptile (Nichol, Achiam, Schulman 2018): move towards the weights that ordinary training on each task arrives at.

    theta <- theta + epsilon * mean over tasks of (theta_k - theta)

The learner returns theta - theta_k as the gradient, so that the outer step is any optimizer's: with
`optimizer = dict(name='sgd', peak=epsilon, decay='linear', end=0.0, clip=None)` it is the paper's. The support set is
trained on; the query set, if there is one, is not read. One step per task would be supervised training on all of them.
"""

from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, GradFn, Key, Loss, LossFn, Params
from llm_jax.meta_learning.context import KEY, Context, MapTasks
from llm_jax.meta_learning.inner import InnerLoop, InnerOptimizer, constant_rate, in_float32
from llm_jax.meta_learning.maml import check_rate
from llm_jax.meta_learning.outer import Adapting, sum_over_tasks


def learner(inner: InnerLoop, map_tasks: MapTasks) -> Adapting:
  """Reptile with some inner loop."""
  def gradient(loss_fn: LossFn, step: Any) -> GradFn:
    """grad_fn(params, batch, key): the loss is that of the support set after the inner loop; the gradient of each task
    counts by that loss's weight, so that the train step's division by the whole weight makes it a mean."""
    def one_task(params: Params, task: Batch, key: Key) -> tuple[Loss, Params]:
      steps_key, loss_key = jax.random.split(key)
      adapted, _ = inner.run(loss_fn, params, task["support"], steps_key)
      _, loss = loss_fn(adapted, task["support"], loss_key)
      change = {n: in_float32(p) - adapted[n] if n in inner.names else jnp.zeros(p.shape, in_float32(p).dtype)
                for n, p in params.items()}
      return loss, {n: (loss.weight * d).astype(d.dtype) for n, d in change.items()}
    return sum_over_tasks(one_task, map_tasks, second_order=False)
  return Adapting(inner, gradient, second_order=False)


def build(context: Context, *, inner_steps: int = 5, inner_lr: float = 1e-2, adapt: str | None = None,
          inner_optimizer: InnerOptimizer = "sgd", inner_batch_size: int | None = None) -> Adapting:
  """Reptile.

  Args:
    inner_steps: gradient steps on a task, at least 2.
    inner_lr: their learning rate.
    adapt: regular expression over names of parameters that are trained; None trains all.
    inner_optimizer: 'sgd', or 'adam' with fresh moments for every task.
    inner_batch_size: support examples per inner step, taken in turn; None is all.
  """
  if inner_steps < 2:
    raise ConfigError(f"{KEY}.inner_steps", f"got {inner_steps}; one step is supervised training on all tasks",
                      accepted="a whole number from 2")
  inner = InnerLoop(context.adapted(adapt), inner_steps, constant_rate(check_rate(inner_lr)), 1, inner_batch_size,
                    place=context.place, adam=inner_optimizer == "adam")
  return learner(inner, context.map_tasks)
