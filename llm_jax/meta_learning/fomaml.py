"""First-order MAML (Finn, Abbeel, Levine 2017, section 5.2): the query gradient at the adapted parameters, as it is.

It costs about one supervised step more than the inner loop, and it is another method, not a cheap MAML: on a small
language model at initialisation the two gradients have a cosine of about 0.7.
"""

from llm_jax.meta_learning import maml
from llm_jax.meta_learning.context import Context
from llm_jax.meta_learning.inner import InnerOptimizer
from llm_jax.meta_learning.outer import Adapting


def build(context: Context, *, inner_steps: int = 1, inner_lr: float = 1e-2, adapt: str | None = None,
          inner_optimizer: InnerOptimizer = "sgd", inner_batch_size: int | None = None) -> Adapting:
  """First-order MAML.

  Args:
    inner_steps: gradient steps on a task's support set.
    inner_lr: their learning rate.
    adapt: regular expression over names of parameters that adapt; None adapts all.
    inner_optimizer: 'sgd', or 'adam' with fresh moments for every task.
    inner_batch_size: support examples per inner step, taken in turn; None is all.
  """
  return maml.build(context, inner_steps=inner_steps, inner_lr=inner_lr, order=1, adapt=adapt,
                    inner_optimizer=inner_optimizer, inner_batch_size=inner_batch_size)
