"""Supervised learning: the gradient of the loss."""

import jax

from llm_jax.core.types import Batch, GradFn, Key, Learner, Loss, LossFn, Params


def build() -> Learner:
  """The learner that differentiates the loss once and changes nothing else."""
  return supervised


def supervised(loss_fn: LossFn) -> GradFn:
  """grad_fn(params, batch, key) -> (loss, gradient of loss.total)."""
  differentiate = jax.value_and_grad(loss_fn, has_aux=True)
  def grad_fn(params: Params, batch: Batch, key: Key) -> tuple[Loss, Params]:
    (_, loss), grads = differentiate(params, batch, key)
    return loss, grads
  return grad_fn
