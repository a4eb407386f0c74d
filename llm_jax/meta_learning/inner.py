"""The inner loop: gradient steps on a task's support set, as a pure function that can be differentiated itself.

    theta_0 = theta,   theta_{j+1} = theta_j - rate_j * direction_j,   direction_j = grad L_support(theta_j) or Adam's

Adam's moments (Kingma and Ba 2015) start afresh for every task and are differentiated through like the rest.
Fast weights are float32 and lie on the mesh as the parameters do. Every step's random key is fixed before the loop, so
that a step that is computed again (remat) drops the same units.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Key, LossFn, Params
from llm_jax.meta_learning import mixed_mode
from llm_jax.meta_learning.context import KEY

BETAS, EPSILON = (0.9, 0.999), 1e-8
InnerOptimizer = Literal["sgd", "adam"]
Rate = Callable[[Params, str, jax.Array], Any]  # (all parameters, name, inner step) -> rate that fits that array
Each = Callable[[Params, jax.Array], Any]  # (all parameters after a step, number of that step from 0)


@dataclasses.dataclass(frozen=True)
class InnerLoop:
  """How a task is adapted to.

  names: parameters that adapt. steps: default number. rate: of a parameter at a step. order: 1 takes inner gradients as
  constants. batch_size: support examples per step, taken in turn; None: all. remat: steps keep their start only.
  mixed_mode: forward over reverse. reset: adapted parameters start every task at zero. pull: weight of
  |theta_j - theta|^2 / 2 in the inner loss. place: layout of fast weights. adam: directions are Adam's.
  """

  names: frozenset[str]
  steps: int
  rate: Rate
  order: int = 2
  batch_size: int | None = None
  remat: bool = True
  mixed_mode: bool = True
  reset: bool = False
  pull: float = 0.0
  place: Callable[[Params], Params] = lambda params: params
  adam: bool = False

  def __post_init__(self) -> None:
    if self.order not in (1, 2):
      raise ConfigError(f"{KEY}.order", f"got {self.order}", accepted="1 (first order) or 2")
    if self.steps < 0:
      raise ConfigError(f"{KEY}.inner_steps", f"got {self.steps}", accepted="a whole number from 0")

  def run(self, loss_fn: LossFn, params: Params, support: Batch, key: Key | None, *, steps: int | None = None,
          each: Each | None = None) -> tuple[Params, Any]:
    """(all parameters after the last step, `each` of every step stacked)."""
    start = self.place({n: in_float32(params[n]) for n in sorted(self.names)})
    start = jax.tree.map(jnp.zeros_like, start) if self.reset else start
    slow = {n: p for n, p in params.items() if n not in self.names}

    def step(carry: tuple[Params, Any], index: jax.Array) -> tuple[tuple[Params, Any], Any]:
      fast, moments = carry
      inner_key = None if key is None else jax.random.fold_in(key, index)
      grads = self._gradient(loss_fn, fast, slow, self._examples(support, index), inner_key)
      if self.pull:
        grads = {n: g + self.pull * (fast[n] - start[n]) for n, g in grads.items()}
      if self.adam:
        moments, grads = adam_direction(moments, grads, index)
      fast = self.place({n: p - self.rate(params, n, index) * grads[n] for n, p in fast.items()})
      return (fast, moments), None if each is None else each({**slow, **fast}, index)

    body = jax.checkpoint(step, prevent_cse=False) if self.remat and self.order == 2 else step
    zeros = jax.tree.map(jnp.zeros_like, start)
    moments = (zeros, zeros) if self.adam else ()
    (fast, _), kept = jax.lax.scan(body, (start, moments), jnp.arange(self.steps if steps is None else steps))
    return {**slow, **fast}, kept

  def trajectory(self, loss_fn: LossFn, params: Params, support: Batch, key: Key | None, *, steps: int,
                 each: Callable[[Params], Any]) -> Any:
    """`each` of the parameters before any step and after each of `steps` steps, stacked: leaves (steps + 1, ...)."""
    start, _ = self.run(loss_fn, params, support, key, steps=0)
    _, rest = self.run(loss_fn, params, support, key, steps=steps, each=lambda fast, _: each(fast))
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), each(start), rest)

  def _gradient(self, loss_fn: LossFn, fast: Params, slow: Params, examples: Batch, key: Key | None) -> Params:
    def loss(fast: Params, slow: Params, examples: Batch, key: Key | None) -> jax.Array:
      total, parts = loss_fn({**slow, **fast}, examples, key)
      return total / jnp.maximum(parts.weight, 1e-8).astype(total.dtype)
    if self.order == 1:
      return jax.grad(loss)(jax.lax.stop_gradient(fast), jax.lax.stop_gradient(slow), examples, key)
    differentiate = mixed_mode.gradient(loss) if self.mixed_mode else jax.grad(loss)
    return differentiate(fast, slow, examples, key)

  def check_support(self, size: int) -> None:
    """Raises ConfigError if the support examples of a step do not divide the `size` of a task."""
    if self.batch_size is not None and (self.batch_size < 1 or size % min(self.batch_size, size)):
      raise ConfigError(f"{KEY}.inner_batch_size", f"{self.batch_size} does not divide the {size} examples of the "
                        "support set", accepted=f"a divisor of {size}")

  def _examples(self, support: Batch, index: jax.Array) -> Batch:
    if self.batch_size is None:
      return support
    size = jax.tree.leaves(support)[0].shape[0]
    self.check_support(size)
    taken = min(self.batch_size, size)
    first = index % (size // taken) * taken
    return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, first, taken), support)


def adam_direction(moments: tuple[Params, Params], grads: Params, index: jax.Array) -> tuple[Any, Params]:
  """(moments, m_hat / sqrt(v_hat + epsilon^2)) after step `index` from 0. Epsilon lies under the root, where the
  published form adds it outside: the root's derivative is then finite where a gradient is zero."""
  first = {n: BETAS[0] * m + (1 - BETAS[0]) * grads[n] for n, m in moments[0].items()}
  second = {n: BETAS[1] * v + (1 - BETAS[1]) * jnp.square(grads[n]) for n, v in moments[1].items()}
  unbiased = [1 - b ** (index + 1) for b in BETAS]
  direction = {n: m / unbiased[0] / jnp.sqrt(second[n] / unbiased[1] + EPSILON**2) for n, m in first.items()}
  return (first, second), direction


def in_float32(x: jax.Array) -> jax.Array:
  """At least float32: a rate times a gradient is lost in bfloat16."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def constant_rate(rate: float) -> Rate:
  """The same rate for every array and step."""
  return lambda params, name, index: rate
