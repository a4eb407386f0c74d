"""Learning to reweight examples (Ren et al. 2018): a training example counts as much as it helps a few clean ones.

    w_i = max(0, -d/d eps_i L_clean(theta - lr * grad sum_i eps_i l_i)) at eps = 0
        = max(0, lr <grad l_i, grad L_clean>),     normalised to sum to 1 over the batch        (equations 8 to 10)

The support set holds the examples to be trained on, the query set the clean ones. Each task's weights are its own. l_i
is the mean loss of an example: one with more tokens than others does not count more for that.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.example_weights import scaled
from llm_jax.core.types import Batch, Extra, GradFn, Key, Loss, LossFn, Params
from llm_jax.meta_learning.context import Context, MapTasks
from llm_jax.meta_learning.outer import sum_over_tasks


@dataclasses.dataclass(frozen=True)
class Reweight:
  """The learner."""

  map_tasks: MapTasks
  episodes: bool = True
  second_order: bool = True

  @property
  def extras(self) -> Mapping[str, Extra]:
    return {}

  def __call__(self, loss_fn: LossFn, step: Any) -> GradFn:
    """grad_fn(params, batch, key): the weighted loss of the support sets and its gradient."""
    def one_task(params: Params, task: Batch, key: Key) -> tuple[Loss, Params]:
      train_key, clean_key = jax.random.split(key)
      clean = jax.grad(lambda p: loss_fn(p, task["query"], clean_key)[0])(params)
      weights = jnp.maximum(example_weights(loss_fn, params, task["support"], train_key), 1e-8)
      # <grad l_i, g> is the derivative in eps_i of the forward derivative of sum eps_i l_i along g.
      def along(scale: jax.Array) -> jax.Array:
        loss = lambda p: loss_fn(p, scaled(task["support"], scale / weights), train_key)[0]
        return jax.jvp(loss, (params,), (clean,))[1]
      examples = rows(task["support"])
      help_of = jnp.maximum(jax.grad(along)(jnp.zeros(examples)), 0.0)
      share = help_of * (examples / jnp.maximum(help_of.sum(), 1e-12))
      weighted = lambda p: loss_fn(p, scaled(task["support"], share), train_key)
      grads, loss = jax.grad(weighted, has_aux=True)(params)
      return loss._replace(weight=loss_fn(params, task["support"], train_key)[1].weight), grads
    return sum_over_tasks(one_task, self.map_tasks, second_order=True)


def rows(examples: Batch) -> int:
  """Examples of one task."""
  return int(jax.tree.leaves(examples)[0].shape[0])


def example_weights(loss_fn: LossFn, params: Params, examples: Batch, key: Key) -> jax.Array:
  """(B,) what the targets of each example weigh together: the derivative of the batch's weight in what it counts."""
  weight = lambda scale: loss_fn(params, scaled(examples, scale), key)[1].weight
  return jax.lax.stop_gradient(jax.grad(weight)(jnp.ones(rows(examples))))


def build(context: Context) -> Reweight:
  """Learning to reweight."""
  return Reweight(context.map_tasks)
