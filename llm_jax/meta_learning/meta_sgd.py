"""Meta-SGD (Li et al. 2017): MAML whose inner learning rate is learned, one number per weight.

The rates are arrays of the parameters' shapes and layout, named 'meta.<parameter>.rate'; they are trained with the
parameters by the same optimizer and lie in the same checkpoint.
"""

from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.types import Extra, Key, Params
from llm_jax.meta_learning.context import Context
from llm_jax.meta_learning.inner import InnerLoop
from llm_jax.meta_learning.maml import check_rate, learner
from llm_jax.meta_learning.outer import Adapting


def rate_name(name: str) -> str:
  """'meta.blocks.attention.query.kernel.rate'."""
  return f"meta.{name}.rate"


def build(context: Context, *, inner_steps: int = 1, inner_lr: float = 1e-2, order: int = 2, adapt: str | None = None,
          inner_batch_size: int | None = None, remat: bool = True, mixed_mode: bool = True) -> Adapting:
  """Meta-SGD.

  Args:
    inner_steps: gradient steps on a task's support set.
    inner_lr: where the rates start.
    order: 2 differentiates through the inner gradients, 1 takes them as constants (the rates are learned either way).
    adapt: regular expression over names of parameters that adapt; None adapts all.
    inner_batch_size: support examples per inner step, taken in turn; None is all.
    remat: an inner step keeps only its start and is computed again in the backward pass.
    mixed_mode: second derivatives forward over reverse.
  """
  check_rate(inner_lr)
  names = context.adapted(adapt)
  def rate(params: Params, name: str, index: jax.Array) -> Any:
    return params[rate_name(name)]
  extras = {rate_name(n): Extra(context.shapes[n].shape, context.axes[n], _full(context.shapes[n].shape, inner_lr))
            for n in sorted(names)}
  inner = InnerLoop(names, inner_steps, rate, order, inner_batch_size, remat, mixed_mode, place=context.place)
  return learner(inner, context.map_tasks, extras)


def _full(shape: tuple[int, ...], value: float) -> Any:
  def init(key: Key) -> jax.Array:
    return jnp.full(shape, value, jnp.float32)
  return init
