"""Reptile (Nichol, Achiam, Schulman 2018): move towards the weights that ordinary training on each task arrives at.

    theta <- theta + epsilon * mean over tasks of (theta_k - theta)

The learner returns theta - theta_k as the gradient, so that the outer step is any optimizer's: with
`optimizer = dict(name='sgd', peak=epsilon, decay='linear', end=0.0, clip=None)` it is the paper's. The support set is
trained on; the query set, if there is one, is not read. One step per task would be supervised training on all of them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Extra, GradFn, Key, Loss, LossFn, Params
from llm_jax.meta_learning.context import KEY, Context, MapTasks
from llm_jax.meta_learning.inner import InnerLoop, constant_rate, in_float32
from llm_jax.meta_learning.maml import check_rate
from llm_jax.meta_learning.outer import summed, task_keys


@dataclasses.dataclass(frozen=True)
class Reptile:
  """The learner."""

  inner: InnerLoop
  map_tasks: MapTasks
  episodes: bool = True
  second_order: bool = False

  @property
  def extras(self) -> Mapping[str, Extra]:
    return {}

  @property
  def inner_steps(self) -> int:
    return self.inner.steps

  def __call__(self, loss_fn: LossFn, step: Any) -> GradFn:
    """grad_fn(params, batch, key): the loss is that of the support set after the inner loop; the gradient of each task
    counts by that loss's weight, so that the train step's division by the whole weight makes it a mean."""
    def one_task(params: Params, support: Batch, key: Key) -> tuple[Loss, Params]:
      steps_key, loss_key = jax.random.split(key)
      adapted, _ = self.inner.run(loss_fn, params, support, steps_key)
      _, loss = loss_fn(adapted, support, loss_key)
      change = {n: in_float32(p) - adapted[n] for n, p in params.items() if n in self.inner.names}
      return loss, {n: (loss.weight * d).astype(d.dtype) for n, d in change.items()}

    def grad_fn(params: Params, batch: Batch, key: Key) -> tuple[Loss, Params]:
      losses, changes = self.map_tasks(one_task, (None, 0, 0))(params, batch["support"], task_keys(key, batch))
      zeros = {n: jnp.zeros(p.shape, in_float32(p).dtype) for n, p in params.items() if n not in self.inner.names}
      return summed(losses), {**zeros, **jax.tree.map(lambda a: a.sum(0), changes)}
    return grad_fn

  def adapt(self, loss_fn: LossFn, params: Params, support: Batch, key: Key | None, *, steps: int,
            each: Callable[[Params], Any]) -> Any:
    """`each` of the parameters before and after each of `steps` steps on one task, stacked."""
    return self.inner.trajectory(loss_fn, params, support, key, steps=steps, each=each)


def build(context: Context, *, inner_steps: int = 5, inner_lr: float = 1e-2, adapt: str | None = None,
          inner_batch_size: int | None = None) -> Reptile:
  """Reptile.

  Args:
    inner_steps: gradient steps on a task, at least 2.
    inner_lr: their learning rate.
    adapt: regular expression over names of parameters that are trained; None trains all.
    inner_batch_size: support examples per inner step, taken in turn; None is all.
  """
  if inner_steps < 2:
    raise ConfigError(f"{KEY}.inner_steps", f"got {inner_steps}; one step is supervised training on all tasks",
                      accepted="a whole number from 2")
  inner = InnerLoop(context.adapted(adapt), inner_steps, constant_rate(check_rate(inner_lr)), 1, inner_batch_size,
                    place=context.place)
  return Reptile(inner, context.map_tasks)
