"""CAVIA (Zintgraf et al. 2019): only a context adapts, from zero for every task; the network itself is shared.

The context is parameters that the network reads as a further input (models/mlp.py, `context`), or any parameters that
mean "nothing" at zero, such as a LoRA's second matrix: the inner loop's memory is tasks x context, not tasks x network.
The outer loop trains the rest; the context's own gradient is zero, so that it stays at zero.
"""

from llm_jax.meta_learning.context import Context
from llm_jax.meta_learning.inner import InnerLoop, constant_rate
from llm_jax.meta_learning.maml import MAML, check_rate


def build(context: Context, *, adapt: str = r"(^|\.)context$", inner_steps: int = 1, inner_lr: float = 1.0,
          order: int = 2, inner_batch_size: int | None = None, remat: bool = True, mixed_mode: bool = True) -> MAML:
  """CAVIA.

  Args:
    adapt: regular expression over names of the context, e.g. 'lora_b$'.
    inner_steps: gradient steps on a task's support set.
    inner_lr: their learning rate.
    order: 2 differentiates through the inner gradients, 1 takes them as constants.
    inner_batch_size: support examples per inner step, taken in turn; None is all.
    remat: an inner step keeps only its start and is computed again in the backward pass.
    mixed_mode: second derivatives forward over reverse.
  """
  inner = InnerLoop(context.adapted(adapt), inner_steps, constant_rate(check_rate(inner_lr)), order, inner_batch_size,
                    remat, mixed_mode, reset=True, place=context.place)
  return MAML(inner, context.map_tasks)
