"""Model-agnostic meta-learning (Finn, Abbeel, Levine 2017): train the parameters from which a few steps of gradient
descent on a task's support set reach a low loss on its query set.

    gradient of  sum over tasks of L_query(theta_k),   theta_{j+1} = theta_j - lr * grad L_support(theta_j)

With order=1 the inner gradients are constants (first-order MAML, section 5.2 of the paper).
"""

from collections.abc import Mapping
from typing import Any

import jax

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Extra, GradFn, Key, Loss, LossFn, Params
from llm_jax.meta_learning.context import KEY, Context, MapTasks
from llm_jax.meta_learning.inner import InnerLoop, InnerOptimizer, constant_rate
from llm_jax.meta_learning.outer import Adapting, gradient_over_tasks


def learner(inner: InnerLoop, map_tasks: MapTasks, extras: Mapping[str, Extra] | None = None) -> Adapting:
  """MAML with some inner loop. extras: what it trains beside the model (the rates of Meta-SGD)."""
  def gradient(loss_fn: LossFn, step: Any) -> GradFn:
    """grad_fn(params, batch, key): loss of the queries after adaptation, and its gradient in the parameters before."""
    def task_loss(params: Params, task: Batch, key: Key) -> tuple[jax.Array, Loss]:
      support_key, query_key = jax.random.split(key)
      adapted, _ = inner.run(loss_fn, params, task["support"], support_key)
      return loss_fn(adapted, task["query"], query_key)
    return gradient_over_tasks(task_loss, map_tasks, inner.order == 2)
  return Adapting(inner, gradient, inner.order == 2, dict(extras or {}))


def build(context: Context, *, inner_steps: int = 1, inner_lr: float = 1e-2, order: int = 2, adapt: str | None = None,
          inner_optimizer: InnerOptimizer = "sgd", inner_batch_size: int | None = None, remat: bool = True,
          mixed_mode: bool = True) -> Adapting:
  """MAML, or first-order MAML with order=1.

  Args:
    inner_steps: gradient steps on a task's support set.
    inner_lr: their learning rate.
    order: 2 differentiates through the inner gradients, 1 takes them as constants.
    adapt: regular expression over names of parameters that adapt (a LoRA, a head); None adapts all.
    inner_optimizer: 'sgd', or 'adam' with fresh moments for every task.
    inner_batch_size: support examples per inner step, taken in turn; None is all.
    remat: an inner step keeps only its start and is computed again in the backward pass.
    mixed_mode: second derivatives forward over reverse, for about the memory of the first order.
  """
  inner = InnerLoop(context.adapted(adapt), inner_steps, constant_rate(check_rate(inner_lr)), order, inner_batch_size,
                    remat, mixed_mode, place=context.place, adam=inner_optimizer == "adam")
  return learner(inner, context.map_tasks)


def check_rate(rate: float, key: str = f"{KEY}.inner_lr") -> float:
  """`rate` if it is not negative.

  Raises:
    ConfigError: otherwise.
  """
  if not rate >= 0:
    raise ConfigError(key, f"got {rate}", accepted="a number from 0")
  return rate
