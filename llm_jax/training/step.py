"""The train step: one pure function of (state, batch, knobs), and the evaluation step beside it.

Neither is jitted here: a test can call them as they are; training/loop.py adds jit, donation and shardings.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llm_jax.core.carry import enter
from llm_jax.core.example_weights import applied
from llm_jax.core.types import (
    Batch,
    GradFn,
    Key,
    Knobs,
    Learner,
    Loss,
    Losses,
    Mean,
    Metrics,
    Objective,
    Params,
    Plan,
    TrainState,
    Weighting,
)
from llm_jax.optimizers.chain import global_norm
from llm_jax.training import faults
from llm_jax.training.guard import Guard, select

StepMetrics = dict[str, jax.Array]
EmaUpdate = Callable[[Params, Params, jax.Array], Params]  # (average, params, step) -> average
About = Callable[[Params, Batch, Key | None, Knobs], Mapping[str, jax.Array]]  # frozen, ... -> Losses.about


def mean_weighting(losses: Losses, knobs: Knobs) -> Loss:
  """Every target counts by its weight; the architecture's auxiliary loss is added per unit of weight."""
  weights = losses.weights.astype(jnp.float32)
  weight = weights.sum()
  return Loss((losses.values * weights).sum() + losses.auxiliary * weight, weight, losses.metrics)


def accumulated(grad_fn: GradFn, params: Params, batch: Batch, key: Key, count: int) -> tuple[Loss, Params]:
  """Loss and gradient sums of the batch, taken in `count` micro-batches; nothing is divided here.

  Rows go to micro-batches round robin, so that each stays spread over the devices as the whole batch was.
  """
  if count == 1:
    return grad_fn(params, batch, key)
  micro = jax.tree.map(lambda a: a.reshape(a.shape[0] // count, count, *a.shape[1:]).swapaxes(0, 1), batch)
  loss, grads = jax.eval_shape(grad_fn, params, jax.tree.map(lambda a: a[0], micro), key)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (loss._replace(carry=None), grads))
  def add(total: tuple[Loss, Params], xs: tuple[Batch, jax.Array]) -> tuple[tuple[Loss, Params], Any]:
    part, index = xs
    loss, grads = grad_fn(params, part, jax.random.fold_in(key, index))
    return jax.tree.map(jnp.add, total, (loss._replace(carry=None), grads)), loss.carry
  (loss, grads), carry = jax.lax.scan(add, zeros, (micro, jnp.arange(count)))
  rows = lambda a: a.swapaxes(0, 1).reshape(-1, *a.shape[2:])  # as they came
  return loss._replace(carry=jax.tree.map(rows, carry)), grads


def make_train_step(apply: Callable, objective: Objective, learner: Learner, optimizer: optax.GradientTransformation, *,
                    schedule: Callable[[Any], Any], guard: Guard, weighting: Weighting = mean_weighting,
                    about: About | None = None, accumulate: int = 1, ema: EmaUpdate | None = None,
                    pin: Callable[[Params], Params] | None = None) -> Callable:
  """train_step(state, batch, knobs) -> (state, {metric: scalar}). about: what the weighting is told of each example.
  pin: fixes where gradients lie, where that of the optimizer state would reach back into the model.

  The gradient is that of sum(weight * loss) / sum(weight) over the whole global batch, whatever the number of
  micro-batches, hosts or devices.
  """
  def train_step(state: TrainState, batch: Batch, knobs: Knobs) -> tuple[TrainState, StepMetrics]:
    key = jax.random.fold_in(state.key, state.step)
    batch = enter(batch, state.carry) if state.carry else batch
    fault = faults.loss_scale(state.step)

    def loss_fn(params: Params, batch: Batch, key: Key | None) -> tuple[jax.Array, Loss]:
      losses = applied(objective(apply, {**state.frozen, **params}, batch, key, knobs), batch)
      if about is not None:
        losses = losses._replace(about=about(state.frozen, batch, key, knobs))
      loss = weighting(losses, knobs)
      total = loss.total if fault is None else loss.total * fault
      return total, loss._replace(total=total, carry=losses.carry)

    loss, grads = accumulated(learner(loss_fn, state.step), state.params, batch, key, accumulate)
    grads = grads if pin is None else pin(grads)
    weight = jnp.maximum(loss.weight, 1e-8)
    grads = jax.tree.map(lambda g: g / weight.astype(g.dtype), grads)
    mean, norm = loss.total / weight, global_norm(grads)
    good, guard_state = guard.check(state.guard, mean, norm)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = ema(state.ema, params, state.step) if ema else state.ema
    carry = loss.carry if state.carry else state.carry
    params, opt_state, average, carry = select(good, (params, opt_state, average, carry),
                                               (state.params, state.opt_state, state.ema, state.carry))
    rate = schedule(state.step - state.guard["skipped"])  # the optimizer does not count what is skipped
    metrics = {"loss": mean, "gradient_norm": norm, "learning_rate": jnp.asarray(rate), "target_tokens": loss.weight,
               "skipped_updates": guard_state["skipped"], "skipped_in_a_row": guard_state["consecutive"],
               **divide(loss.metrics)}
    state = state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=average, guard=guard_state,
                          carry=carry)
    return state, {name: value.astype(jnp.float32) for name, value in metrics.items()}
  return train_step


def make_eval_step(apply: Callable, objective: Objective) -> Callable:
  """eval_step(params, frozen, batch) -> {metric: Mean}: loss and the objective's metrics, deterministic, still sums.

  The loss is that of the data: what training adds for the architecture's sake (expert balance) is left out. A batch
  that brings the state of its rows as 'carry' gets the state after them under that name, which is no metric.
  """
  def eval_step(params: Params, frozen: Params, batch: Batch) -> Metrics:
    batch = enter(batch, batch["carry"]) if "carry" in batch else batch
    losses = objective(apply, {**frozen, **params}, batch, None, {})
    loss = mean_weighting(losses._replace(auxiliary=0.0), {})
    return {"loss": Mean(loss.total, loss.weight)} | loss.metrics | (
        {"carry": losses.carry} if "carry" in batch else {})
  return eval_step


def knobs_of(plan: Plan) -> dict[str, np.float32]:
  """The plan's knobs as scalars that cross jit without a recompile."""
  return {name: np.float32(value) for name, value in plan.knobs.items()}


def divide(metrics: Metrics) -> dict[str, jax.Array]:
  """{name: total / weight}."""
  return {name: m.total / jnp.maximum(m.weight, 1e-8) for name, m in metrics.items()}
