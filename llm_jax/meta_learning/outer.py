"""The outer loop: what each task has to say after adaptation becomes one gradient over tasks.

A method either says a task's outer loss, which is differentiated here (`gradient_over_tasks`), or a task's direction
itself (`sum_over_tasks`). `Adapting` is the learner around either. Rows that a batch has beside its episodes are left
alone: there may be more or fewer of them than tasks.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from llm_jax.core.derivatives import plain_layers
from llm_jax.core.types import Batch, Extra, GradFn, Key, Loss, LossFn, Params
from llm_jax.meta_learning.context import MapTasks
from llm_jax.meta_learning.inner import InnerLoop

TaskLoss = Callable[[Params, Batch, Key], tuple[jax.Array, Loss]]  # one task {'support': (B, ...), 'query': (B, ...)}


TaskGradient = Callable[[Params, Batch, Key], tuple[Loss, Params]]  # the same task: its loss and its direction


@dataclasses.dataclass(frozen=True)
class Adapting:
  """A learner with an inner loop. gradient: (loss_fn, update number) -> grad_fn over episodes; extras: what is trained
  beside the model; second_order: differentiates through gradients."""

  inner: InnerLoop
  gradient: Callable[[LossFn, Any], GradFn]
  second_order: bool
  extras: Mapping[str, Extra] = dataclasses.field(default_factory=dict)
  episodes: bool = True

  @property
  def inner_steps(self) -> int:
    return self.inner.steps

  def check_support(self, size: int) -> None:
    """Raises ConfigError if the inner loop cannot take the `size` support examples of a task."""
    self.inner.check_support(size)

  def __call__(self, loss_fn: LossFn, step: Any) -> GradFn:
    return self.gradient(loss_fn, step)

  def adapt(self, loss_fn: LossFn, params: Params, support: Batch, key: Key | None, *, steps: int,
            each: Callable[[Params], Any]) -> Any:
    """`each` of the parameters before and after each of `steps` steps on one task, stacked."""
    return self.inner.trajectory(loss_fn, params, support, key, steps=steps, each=each)


EPISODE = ("support", "query")


def episodes_of(batch: Batch) -> Batch:
  """The batch's episodes, without the rows beside them."""
  return {part: batch[part] for part in EPISODE if part in batch}


def task_keys(key: Key, batch: Batch) -> Key:
  """One random key per task of an episode batch."""
  return jax.random.split(key, jax.tree.leaves(batch)[0].shape[0])


def summed(losses: Loss) -> Loss:
  """Over the leading axis, one entry per task."""
  return jax.tree.map(lambda a: a.sum(0), losses)


def gradient_over_tasks(task_loss: TaskLoss, map_tasks: MapTasks, second_order: bool) -> GradFn:
  """grad_fn(params, batch, key): loss and gradient sums over the tasks of `batch`, whose episodes have leaves
  (T, B, ...)."""
  def loss_of_tasks(params: Params, batch: Batch, key: Key) -> tuple[jax.Array, Loss]:
    _, losses = map_tasks(task_loss, (None, 0, 0))(params, batch, task_keys(key, batch))
    loss = summed(losses)
    return loss.total, loss

  def grad_fn(params: Params, batch: Batch, key: Key) -> tuple[Loss, Params]:
    with plain_layers() if second_order else contextlib.nullcontext():
      (_, loss), grads = jax.value_and_grad(loss_of_tasks, has_aux=True)(params, episodes_of(batch), key)
    return loss, grads
  return grad_fn


def sum_over_tasks(task_gradient: TaskGradient, map_tasks: MapTasks, second_order: bool) -> GradFn:
  """grad_fn(params, batch, key): losses and directions of the tasks of `batch`, added up."""
  def grad_fn(params: Params, batch: Batch, key: Key) -> tuple[Loss, Params]:
    with plain_layers() if second_order else contextlib.nullcontext():
      episodes = episodes_of(batch)
      losses, grads = map_tasks(task_gradient, (None, 0, 0))(params, episodes, task_keys(key, episodes))
    return summed(losses), jax.tree.map(lambda a: a.sum(0), grads)
  return grad_fn
