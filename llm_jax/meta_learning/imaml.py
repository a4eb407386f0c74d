"""Implicit MAML (Rajeswaran et al. 2019): the outer gradient from where the inner loop ends, not from how it got there.

The inner problem is phi* = argmin L_support(phi) + lam/2 |phi - theta|^2. At its solution the outer gradient is

    (I + H/lam)^-1 grad L_query(phi*),    H the Hessian of L_support at phi*        (equation 6)

solved by conjugate gradients over Hessian-vector products: no step of the inner loop is kept, however many there are.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, GradFn, Key, Loss, LossFn, Params
from llm_jax.meta_learning.context import KEY, Context, MapTasks
from llm_jax.meta_learning.inner import InnerLoop, constant_rate
from llm_jax.meta_learning.maml import check_rate
from llm_jax.meta_learning.outer import Adapting, sum_over_tasks


def learner(inner: InnerLoop, map_tasks: MapTasks, cg_steps: int) -> Adapting:
  """inner: a loop whose loss has the pull lam; cg_steps: of conjugate gradients."""
  def gradient(loss_fn: LossFn, step: Any) -> GradFn:
    """grad_fn(params, batch, key): loss of the queries at the solutions, and its implicit gradient."""
    def one_task(params: Params, task: Batch, key: Key) -> tuple[Loss, Params]:
      steps_key, query_key = jax.random.split(key)
      solution, _ = inner.run(loss_fn, params, task["support"], steps_key)
      grads, loss = jax.grad(loss_fn, has_aux=True)(solution, task["query"], query_key)
      last_key = jax.random.fold_in(steps_key, 0)
      return loss, implicit(inner, cg_steps, loss_fn, solution, task["support"], last_key, grads)
    return sum_over_tasks(one_task, map_tasks, second_order=True)
  return Adapting(inner, gradient, second_order=True)


def implicit(inner: InnerLoop, cg_steps: int, loss_fn: LossFn, solution: Params, support: Batch, key: Key,
             grads: Params) -> Params:
  """The query gradient `grads` at the solution, carried to where the inner loop started. Parameters that do not adapt
  move the solution too: their part is - d2 L / d slow d fast (H + lam I)^-1 grad."""
  lam, names = inner.pull, inner.names
  fast = {n: p for n, p in solution.items() if n in names}
  def support_gradient(fast: Params) -> Params:
    def mean(params: Params) -> jax.Array:
      total, loss = loss_fn(params, support, key)
      return total / jnp.maximum(loss.weight, 1e-8).astype(total.dtype)
    return jax.grad(mean)({**solution, **fast})
  hessian = lambda vector: jax.jvp(support_gradient, (fast,), (vector,))[1]
  def system(vector: Params) -> Params:
    product = hessian(vector)
    return {n: v + product[n] / lam for n, v in vector.items()}
  solved = conjugate_gradients(system, {n: grads[n] for n in fast}, cg_steps)
  if len(fast) == len(solution):
    return solved
  through = hessian(solved)
  return {n: solved[n] if n in names else g - through[n] / lam for n, g in grads.items()}


def conjugate_gradients(system: Callable[[Params], Params], target: Params, steps: int) -> Params:
  """x with system(x) = target for a symmetric positive definite system, after `steps` steps from zero (Hestenes and
  Stiefel 1952). Steps after an exact solution change nothing."""
  dot = lambda a, b: sum(jnp.vdot(a[n], b[n]) for n in a)
  ratio = lambda a, b: jnp.where(b > 0, a / jnp.where(b > 0, b, 1.0), 0.0)
  def step(carry: Any, _: None) -> tuple[Any, None]:
    x, residual, direction, norm = carry
    image = system(direction)
    size = ratio(norm, dot(direction, image))
    x = {n: v + size * direction[n] for n, v in x.items()}
    residual = {n: v - size * image[n] for n, v in residual.items()}
    new = dot(residual, residual)
    turn = ratio(new, norm)
    return (x, residual, {n: v + turn * direction[n] for n, v in residual.items()}, new), None
  zeros = jax.tree.map(jnp.zeros_like, target)
  (x, *_), _ = jax.lax.scan(step, (zeros, target, target, dot(target, target)), None, length=steps)
  return x


def build(context: Context, *, inner_steps: int = 16, inner_lr: float = 1e-2, lam: float = 1.0, cg_steps: int = 5,
          adapt: str | None = None, inner_batch_size: int | None = None) -> Adapting:
  """Implicit MAML.

  Args:
    inner_steps: gradient steps on a task's support set, enough to come near the solution.
    inner_lr: their learning rate.
    lam: weight of the squared distance to the start in the inner loss; the larger, the less a task moves.
    cg_steps: steps of conjugate gradients.
    adapt: regular expression over names of parameters that adapt; None adapts all.
    inner_batch_size: support examples per inner step, taken in turn; None is all.
  """
  if lam <= 0:
    raise ConfigError(f"{KEY}.lam", f"got {lam}", accepted="a number above 0")
  if cg_steps < 1:
    raise ConfigError(f"{KEY}.cg_steps", f"got {cg_steps}", accepted="a whole number from 1")
  inner = InnerLoop(context.adapted(adapt), inner_steps, constant_rate(check_rate(inner_lr)), 1, inner_batch_size,
                    pull=lam, place=context.place)
  return learner(inner, context.map_tasks, cg_steps)
