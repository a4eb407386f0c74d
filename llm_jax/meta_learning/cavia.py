"""CAVIA (Zintgraf et al. 2019): only a context adapts, from zero for every task; the network itself is shared.

The context is parameters that the network reads as a further input (models/mlp.py, `context`), or any parameters that
mean "nothing" at zero, such as a LoRA's second matrix: the inner loop's memory is tasks x context, not tasks x network.
The outer loop trains the rest; the context's own gradient is zero, so that it stays at zero.
"""

import dataclasses

from llm_jax.meta_learning import maml
from llm_jax.meta_learning.context import Context
from llm_jax.meta_learning.inner import InnerOptimizer
from llm_jax.meta_learning.outer import Adapting


def build(context: Context, *, adapt: str = r"(^|\.)context$", inner_steps: int = 1, inner_lr: float = 1.0,
          order: int = 2, inner_optimizer: InnerOptimizer = "sgd", inner_batch_size: int | None = None,
          remat: bool = True, mixed_mode: bool = True) -> Adapting:
  """CAVIA.

  Args:
    adapt: regular expression over names of the context, e.g. 'lora_b$'.
    inner_steps: gradient steps on a task's support set.
    inner_lr: their learning rate.
    order: 2 differentiates through the inner gradients, 1 takes them as constants.
    inner_optimizer: 'sgd', or 'adam' with fresh moments for every task.
    inner_batch_size: support examples per inner step, taken in turn; None is all.
    remat: an inner step keeps only its start and is computed again in the backward pass.
    mixed_mode: second derivatives forward over reverse.
  """
  shared = maml.build(context, inner_steps=inner_steps, inner_lr=inner_lr, order=order, adapt=adapt,
                      inner_optimizer=inner_optimizer, inner_batch_size=inner_batch_size, remat=remat,
                      mixed_mode=mixed_mode)
  return maml.learner(dataclasses.replace(shared.inner, reset=True), context.map_tasks)
