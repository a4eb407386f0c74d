"""MAML++ (Antoniou, Edwards, Storkey 2019): MAML made stable by three of its changes.

* multi-step loss: the outer loss is sum_j w_j L_query(theta_j) over all inner steps; the weights are equal at first and
  move to the last step over the first `multi_step_until` of the run (section 4.1);
* a learned rate for every array, layer and inner step (section 4.3), named 'meta.<parameter>.rates';
* derivative order annealing: first order until `second_order_from`, then second (section 4.2).
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Extra, GradFn, Key, Loss, LossFn, Params
from llm_jax.meta_learning.context import KEY, Context, MapTasks
from llm_jax.meta_learning.inner import InnerLoop
from llm_jax.meta_learning.maml import check_rate
from llm_jax.meta_learning.outer import Adapting, gradient_over_tasks

LEAST = 0.03  # share of its equal part that a step before the last keeps (the published code's 0.03 / steps)


def learner(inner: InnerLoop, map_tasks: MapTasks, extras: Mapping[str, Extra], multi_step_until: int,
            second_order_from: int) -> Adapting:
  """MAML++ with some inner loop. multi_step_until, second_order_from: update numbers. Adapting past the last rate, that
  one goes on."""
  def gradient(loss_fn: LossFn, step: Any) -> GradFn:
    """grad_fn(params, batch, key): the weighted loss of all inner steps and its gradient."""
    weights = loss_weights(step, inner.steps, multi_step_until)
    def of_order(order: int) -> GradFn:
      loop = dataclasses.replace(inner, order=order)
      def task_loss(params: Params, task: Batch, key: Key) -> tuple[jax.Array, Loss]:
        steps_key, query_key = jax.random.split(key)
        query = lambda fast, index: loss_fn(fast, task["query"], query_key)[1]
        _, losses = loop.run(loss_fn, params, task["support"], steps_key, each=query)
        last = jax.tree.map(lambda a: a[-1], losses)
        total = (weights * losses.total).sum()
        return total, last._replace(total=total)
      return gradient_over_tasks(task_loss, map_tasks, second_order=True)
    first, second = of_order(1), of_order(2)
    if second_order_from <= 0:
      return second
    def grad_fn(params: Params, batch: Batch, key: Key) -> tuple[Loss, Params]:
      return jax.lax.cond(jnp.asarray(step) >= second_order_from, second, first, params, batch, key)
    return grad_fn
  return Adapting(inner, gradient, True, extras)


def loss_weights(step: Any, steps: int, until: int) -> jax.Array:
  """(steps,) weights of the query losses after each inner step, summing to 1 (section 4.1): 1/k each at update 0, then
  linear to LEAST/k for all but the last at update `until`."""
  way = jnp.clip(jnp.asarray(step, jnp.float32) / max(until, 1), 0.0, 1.0) if until > 0 else jnp.float32(1.0)
  early = jnp.maximum((1.0 - way) / steps, LEAST / steps if until > 0 else 0.0)
  return jnp.full(steps, early).at[-1].set(1.0 - (steps - 1) * early)


def rates_name(name: str) -> str:
  """'meta.blocks.attention.query.kernel.rates'."""
  return f"meta.{name}.rates"


def build(context: Context, *, inner_steps: int = 5, inner_lr: float = 1e-2, multi_step_until: int = 1000,
          second_order_from: int = 0, adapt: str | None = None, inner_batch_size: int | None = None, remat: bool = True,
          mixed_mode: bool = True) -> Adapting:
  """MAML++.

  Args:
    inner_steps: gradient steps on a task's support set.
    inner_lr: where the rates start.
    multi_step_until: updates over which the outer loss moves from all inner steps to the last one; 0: the last only.
    second_order_from: first update that differentiates through the inner gradients; earlier ones are first order.
    adapt: regular expression over names of parameters that adapt; None adapts all.
    inner_batch_size: support examples per inner step, taken in turn; None is all.
    remat: an inner step keeps only its start and is computed again in the backward pass.
    mixed_mode: second derivatives forward over reverse.
  """
  if inner_steps < 1:
    raise ConfigError(f"{KEY}.inner_steps", f"got {inner_steps}", accepted="a whole number from 1")
  for knob, update in dict(multi_step_until=multi_step_until, second_order_from=second_order_from).items():
    if update < 0:
      raise ConfigError(f"{KEY}.{knob}", f"got {update}", accepted="a number of updates from 0")
  names = context.adapted(adapt)
  layers = {n: tuple(s for s, a in zip(context.shapes[n].shape, context.axes[n]) if a == "layers") for n in names}
  def rate(params: Params, name: str, index: jax.Array) -> jax.Array:
    rates = params[rates_name(name)][jnp.minimum(index, inner_steps - 1)]
    return rates.reshape(*rates.shape, *(1,) * (len(context.shapes[name].shape) - rates.ndim))
  full = lambda shape: functools.partial(_full, shape=shape, value=check_rate(inner_lr))
  extras = {rates_name(n): Extra((inner_steps, *layers[n]), (None, *("layers" for _ in layers[n])),
                                 full((inner_steps, *layers[n]))) for n in sorted(names)}
  inner = InnerLoop(names, inner_steps, rate, 2, inner_batch_size, remat, mixed_mode, place=context.place)
  return learner(inner, context.map_tasks, extras, multi_step_until, second_order_from)


def _full(key: Key, shape: tuple[int, ...], value: float) -> jax.Array:
  return jnp.full(shape, value, jnp.float32)
