"""Adaptation to held-out tasks: the loss on a task's query set before and after steps of gradient descent on its
support set.

The curve is what a meta-learner is for: the loss after 0 steps says what the parameters know, those after 1, 5 and 10
how fast they learn. A learner with a rule of its own (its rates, the parameters that adapt) is measured by it; after
supervised training it is plain gradient descent on all parameters with the rate of `config.adaptation.lr`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Key, LossFn, Mean, Metrics, Params

Trajectory = Callable[..., Any]  # Adapts.adapt: (loss_fn, params, support, key, *, steps, each) -> stacked results
MapTasks = Callable[[Callable[..., Any], Any], Callable[..., Any]]
USUAL = (0, 1, 5, 10)


@dataclasses.dataclass(frozen=True)
class Adaptation:
  """`config.adaptation`. chosen: whether the steps are the config's own."""

  steps: tuple[int, ...]
  lr: float | None
  chosen: bool = True


def build(*, steps: tuple[int, ...] | None = None, lr: float | None = None) -> Adaptation:
  """How adaptation to held-out tasks is measured.

  Args:
    steps: numbers of gradient steps after which the query loss is reported; None is 0, 1, 5 and 10, or 0 alone under a
      learner that reads episodes and does not adapt to them (reweight).
    lr: rate of plain gradient descent, for a learner that has no inner loop; a meta-learner is measured by its own.
  """
  if lr is not None and not lr > 0:
    raise ConfigError("config.adaptation.lr", f"got {lr}", accepted="a rate above 0, or None")
  if steps is None:
    return Adaptation(USUAL, lr, chosen=False)
  if not steps or min(steps) < 0:
    raise ConfigError("config.adaptation.steps", f"got {list(steps)}", accepted="whole numbers from 0")
  return Adaptation(tuple(sorted(set(steps))), lr)


def for_learner(section: Adaptation, learner: Any) -> Adaptation:
  """The section with the steps that are measured of this learner."""
  still = learner.episodes and not measurable(section, learner) and not section.chosen
  return dataclasses.replace(section, steps=(0,)) if still else section


def rule(section: Adaptation, learner: Any) -> Trajectory:
  """How a task is adapted to: by the learner's own rule if it has one.

  Raises:
    ConfigError: a rate is given where the learner has its own, or none where it has not.
  """
  own = getattr(learner, "adapt", None)
  if own is not None and section.lr is not None:
    raise ConfigError("config.adaptation.lr", f"got {section.lr}, but the meta-learner adapts by its own rule",
                      accepted="None")
  if own is None and section.lr is None and section.steps != (0,):
    raise ConfigError("config.adaptation.lr", f"needed to measure {list(section.steps)} steps: this learner has no "
                      "inner loop", accepted="a rate, e.g. 0.01, or config.adaptation.steps=[0]")
  return own or gradient_descent(section.lr or 0.0)


def measurable(section: Adaptation, learner: Any) -> bool:
  """Whether there is a rule: the learner's own, or a rate."""
  return hasattr(learner, "adapt") or section.lr is not None


def gradient_descent(lr: float) -> Trajectory:
  """Plain gradient descent on all trained parameters."""
  def adapt(loss_fn: LossFn, params: Params, support: Batch, key: Key | None, *, steps: int,
            each: Callable[[Params], Any]) -> Any:
    def mean_loss(params: Params) -> jax.Array:
      total, loss = loss_fn(params, support, key)
      return total / jnp.maximum(loss.weight, 1e-8)
    def step(params: Params, _: None) -> tuple[Params, Any]:
      params = {n: p - lr * g for (n, p), g in zip(params.items(), jax.grad(mean_loss)(params).values(), strict=True)}
      return params, each(params)
    _, rest = jax.lax.scan(step, params, None, length=steps)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), each(params), rest)
  return adapt


def metric_name(steps: int, name: str = "loss") -> str:
  """'loss_after_5_steps'."""
  return f"{name}_after_{steps}_step" + ("" if steps == 1 else "s")


def curve(section: Adaptation, adapt: Trajectory, inner_steps: int, map_tasks: MapTasks, loss_fn: LossFn,
          params: Params, batch: Batch) -> Metrics:
  """{'loss_after_5_steps': Mean, ...} over the tasks of an episode batch, still sums, and so for the further metrics;
  their plain names are after `inner_steps`, the number that was trained for."""
  most = max(*section.steps, inner_steps)
  def one_task(params: Params, task: Batch) -> Any:
    query = lambda params: loss_fn(params, task["query"], None)[1]
    return adapt(loss_fn, params, task["support"], None, steps=most, each=query)
  losses = jax.tree.map(lambda a: a.sum(0), map_tasks(one_task, (None, 0))(params, batch))  # leaves (most + 1,)
  at = lambda step: jax.tree.map(lambda a: a[step], losses)
  numbers = lambda loss: {"loss": Mean(loss.total, loss.weight), **loss.metrics}
  found = {metric_name(k, name): mean for k in section.steps for name, mean in numbers(at(k)).items()}
  return {**numbers(at(inner_steps)), **found}
