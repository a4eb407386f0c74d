"""The gradient of a loss whose own derivative is taken forward over reverse (MixFlow-MG: Kemaev et al., ICML 2025).

Differentiating a gradient in reverse mode keeps what the backward pass of the loss computed. But all that an outer
gradient ever asks of an inner one is a product of the Hessian with a vector, and that is the forward derivative of the
gradient: about the memory of the gradient itself.
"""

from collections.abc import Callable
from typing import Any

import jax

ScalarLoss = Callable[..., jax.Array]  # (fast, slow, *constants) -> scalar


def gradient(loss: ScalarLoss) -> Callable[..., Any]:
  """(fast, slow, *constants) -> d loss / d fast, to be differentiated in `fast` and `slow` in reverse mode, once.

  loss: must be twice differentiable in any mode (core/derivatives.py). `constants` (a batch, a random key) and arrays
  that it closes over (frozen parameters) are not differentiated.
  """
  def differentiate(fast: Any, slow: Any, *constants: Any) -> Any:
    # Traced once, here, with everything that it closes over as an argument: the backward pass is built later, where
    # neither those arrays nor the rules of the mesh are at hand.
    closed = jax.make_jaxpr(loss)(fast, slow, *constants)
    def pure(fast: Any, slow: Any, constants: Any) -> jax.Array:
      given, captured = constants
      return jax.core.eval_jaxpr(closed.jaxpr, captured, *jax.tree.leaves((fast, slow, given)))[0]
    return _gradient(pure)(fast, slow, (constants, tuple(closed.consts)))
  return differentiate


def _gradient(loss: ScalarLoss) -> Callable[..., Any]:
  @jax.custom_vjp
  def grad(fast: Any, slow: Any, constants: Any) -> Any:
    return jax.grad(loss)(fast, slow, constants)

  def forward(fast: Any, slow: Any, constants: Any) -> tuple[Any, Any]:
    return grad(fast, slow, constants), (fast, slow, constants)

  def backward(saved: Any, vector: Any) -> tuple[Any, Any, None]:
    fast, slow, constants = saved
    both = lambda fast: jax.grad(loss, argnums=(0, 1))(fast, slow, constants)
    _, (to_fast, to_slow) = jax.jvp(both, (fast,), (vector,))
    return to_fast, to_slow, None

  grad.defvjp(forward, backward)
  return grad
