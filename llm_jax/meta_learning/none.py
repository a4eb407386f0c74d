"""Supervised learning: the gradient of the loss."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from llm_jax.core.types import Batch, Extra, GradFn, Key, Loss, LossFn, Params
from llm_jax.meta_learning.context import Context


@dataclasses.dataclass(frozen=True)
class Supervised:
  """The learner that differentiates the loss once and changes nothing else."""

  episodes: bool = False
  second_order: bool = False

  @property
  def extras(self) -> Mapping[str, Extra]:
    return {}

  def __call__(self, loss_fn: LossFn, step: Any) -> GradFn:
    """grad_fn(params, batch, key) -> (loss, gradient of loss.total)."""
    differentiate = jax.value_and_grad(loss_fn, has_aux=True)
    def grad_fn(params: Params, batch: Batch, key: Key) -> tuple[Loss, Params]:
      (_, loss), grads = differentiate(params, batch, key)
      return loss, grads
    return grad_fn


def build(context: Context) -> Supervised:
  """Supervised learning."""
  return Supervised()
