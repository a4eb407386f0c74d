"""The outer loop: a task's loss after adaptation becomes the gradient of a sum over tasks."""

import contextlib
from collections.abc import Callable

import jax

from llm_jax.core.derivatives import plain_layers
from llm_jax.core.types import Batch, GradFn, Key, Loss, Params
from llm_jax.meta_learning.context import MapTasks

TaskLoss = Callable[[Params, Batch, Key], tuple[jax.Array, Loss]]  # one task {'support': (B, ...), 'query': (B, ...)}


def task_keys(key: Key, batch: Batch) -> Key:
  """One random key per task of an episode batch."""
  return jax.random.split(key, jax.tree.leaves(batch)[0].shape[0])


def summed(losses: Loss) -> Loss:
  """Over the leading axis, one entry per task."""
  return jax.tree.map(lambda a: a.sum(0), losses)


def gradient_over_tasks(task_loss: TaskLoss, map_tasks: MapTasks, second_order: bool) -> GradFn:
  """grad_fn(params, batch, key): loss and gradient sums over the tasks of `batch`, leaves (T, B, ...)."""
  def loss_of_tasks(params: Params, batch: Batch, key: Key) -> tuple[jax.Array, Loss]:
    _, losses = map_tasks(task_loss, (None, 0, 0))(params, batch, task_keys(key, batch))
    loss = summed(losses)
    return loss.total, loss

  def grad_fn(params: Params, batch: Batch, key: Key) -> tuple[Loss, Params]:
    with plain_layers() if second_order else contextlib.nullcontext():
      (_, loss), grads = jax.value_and_grad(loss_of_tasks, has_aux=True)(params, batch, key)
    return loss, grads
  return grad_fn
