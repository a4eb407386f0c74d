"""Almost no inner loop (Raghu et al. 2020): MAML whose inner loop moves the head only; all tasks share the body."""

from llm_jax.meta_learning import maml
from llm_jax.meta_learning.context import Context
from llm_jax.meta_learning.inner import InnerOptimizer
from llm_jax.meta_learning.outer import Adapting


def build(context: Context, *, adapt: str, inner_steps: int = 1, inner_lr: float = 1e-2, order: int = 2,
          inner_optimizer: InnerOptimizer = "sgd", inner_batch_size: int | None = None, remat: bool = True,
          mixed_mode: bool = True) -> Adapting:
  """ANIL.

  Args:
    adapt: regular expression over names of the head, e.g. '^head'.
    inner_steps: gradient steps on a task's support set.
    inner_lr: their learning rate.
    order: 2 differentiates through the inner gradients, 1 takes them as constants.
    inner_optimizer: 'sgd', or 'adam' with fresh moments for every task.
    inner_batch_size: support examples per inner step, taken in turn; None is all.
    remat: an inner step keeps only its start and is computed again in the backward pass.
    mixed_mode: second derivatives forward over reverse.
  """
  return maml.build(context, inner_steps=inner_steps, inner_lr=inner_lr, order=order, adapt=adapt,
                    inner_optimizer=inner_optimizer, inner_batch_size=inner_batch_size, remat=remat,
                    mixed_mode=mixed_mode)
