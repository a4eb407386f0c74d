"""Meta-Weight-Net (Shu et al. 2019): a small network learns how much a training example with a given loss counts.

    w_i = V(l_i; psi),   V = sigmoid(MLP 1 - hidden - 1)
    psi moves by the gradient of L_clean(theta - lr * grad_theta (1/n) sum_i V(l_i; psi) l_i)     (equations 4 to 6)

l_i is the mean loss of an example, whatever its number of targets. The support set holds the examples to be trained on,
the query set the clean ones. The weight network's arrays are named 'meta.weight_net.*' and trained with the parameters.
The update itself counts every target of an example by V, as training counts every target by 1.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.example_weights import scaled
from llm_jax.core.types import Batch, Extra, GradFn, Key, Loss, LossFn, Params
from llm_jax.meta_learning.context import Context, MapTasks
from llm_jax.meta_learning.maml import check_rate
from llm_jax.meta_learning.outer import sum_over_tasks
from llm_jax.meta_learning.reweight import example_weights, rows

NET = "meta.weight_net."


@dataclasses.dataclass(frozen=True)
class MetaWeightNet:
  """The learner. lr: of the step that looks ahead."""

  map_tasks: MapTasks
  extras: Mapping[str, Extra]
  lr: float
  episodes: bool = True
  second_order: bool = True

  def __call__(self, loss_fn: LossFn, step: Any) -> GradFn:
    """grad_fn(params, batch, key): the weighted support loss with its gradient in the network's parameters, and the
    clean loss after one step with its gradient in the weight network's."""
    def one_task(params: Params, task: Batch, key: Key) -> tuple[Loss, Params]:
      train_key, clean_key = jax.random.split(key)
      net = {n: p for n, p in params.items() if n.startswith(NET)}
      slow = {n: p for n, p in params.items() if n not in net}
      losses = jax.lax.stop_gradient(example_losses(loss_fn, params, task["support"], train_key))
      targets = jnp.maximum(example_weights(loss_fn, params, task["support"], train_key), 1e-8)
      def weighted(slow: Params, scale: jax.Array) -> tuple[jax.Array, Loss]:
        return loss_fn({**params, **slow}, scaled(task["support"], scale), train_key)
      def ahead(net: Params) -> jax.Array:
        grads, _ = jax.grad(weighted, has_aux=True)(slow, weigh(net, losses) / targets)
        moved = {n: p - self.lr / rows(task["support"]) * grads[n] for n, p in slow.items()}
        return loss_fn({**params, **moved}, task["query"], clean_key)[0]
      to_slow, loss = jax.grad(weighted, has_aux=True)(slow, weigh(net, losses))
      weight = loss_fn(params, task["support"], train_key)[1].weight
      clean_weight = loss_fn(params, task["query"], clean_key)[1].weight
      to_net = jax.tree.map(lambda g: g * weight / jnp.maximum(clean_weight, 1e-8), jax.grad(ahead)(net))
      return loss._replace(weight=weight), {**to_slow, **to_net}
    return sum_over_tasks(one_task, self.map_tasks, second_order=True)


def example_losses(loss_fn: LossFn, params: Params, examples: Batch, key: Key) -> jax.Array:
  """(B,) mean loss of each example: the derivatives of the batch's loss and of its weight in what the example counts,
  one over the other."""
  ones = jnp.ones(rows(examples))
  totals = jax.grad(lambda scale: loss_fn(params, scaled(examples, scale), key)[0])(ones)
  return totals / jnp.maximum(example_weights(loss_fn, params, examples, key), 1e-8)


def weigh(net: Params, losses: jax.Array) -> jax.Array:
  """(B,) weights in (0, 1) of examples with these losses."""
  hidden = jax.nn.relu(losses[:, None] * net[f"{NET}hidden"] + net[f"{NET}hidden_bias"])
  return jax.nn.sigmoid(hidden @ net[f"{NET}out"] + net[f"{NET}out_bias"])


def build(context: Context, *, lr: float = 1e-2, hidden: int = 100) -> MetaWeightNet:
  """Meta-Weight-Net.

  Args:
    lr: rate of the step that looks ahead.
    hidden: width of the weight network.
  """
  check_rate(lr, "config.meta_learning.lr")
  uniform = lambda shape, bound: lambda key: jax.random.uniform(key, shape, jnp.float32, -bound, bound)
  zeros = lambda shape: lambda key: jnp.zeros(shape, jnp.float32)
  extras = {f"{NET}hidden": Extra((hidden,), (None,), uniform((hidden,), 1.0)),
            f"{NET}hidden_bias": Extra((hidden,), (None,), zeros((hidden,))),
            f"{NET}out": Extra((hidden,), (None,), uniform((hidden,), hidden**-0.5)),
            f"{NET}out_bias": Extra((), (), zeros(()))}
  return MetaWeightNet(context.map_tasks, extras, lr)
