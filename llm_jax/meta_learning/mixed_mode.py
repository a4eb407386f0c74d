"""The gradient of a loss whose own derivative is taken forward over reverse (MixFlow-MG: Kemaev et al., ICML 2025).

Differentiating a gradient in reverse mode keeps what the backward pass of the loss computed. But all that an outer
gradient ever asks of an inner one is a product of the Hessian with a vector, and that is the forward derivative of the
gradient: about the memory of the gradient itself.
"""

import contextvars
from collections.abc import Callable
from typing import Any

import jax

ScalarLoss = Callable[..., jax.Array]  # (fast, slow, *constants) -> scalar


def gradient(loss: ScalarLoss) -> Callable[..., Any]:
  """(fast, slow, *constants) -> d loss / d fast, to be differentiated in `fast` and `slow` in reverse mode, once.

  loss: must be twice differentiable in any mode (core/derivatives.py); arrays that it closes over and `constants` (a
  batch, a random key) count as constants.
  """
  here = contextvars.copy_context()  # sharding rules and plain layers: the backward pass is traced when they are gone

  @jax.custom_vjp
  def grad(fast: Any, slow: Any, *constants: Any) -> Any:
    return jax.grad(loss)(fast, slow, *constants)

  def forward(fast: Any, slow: Any, *constants: Any) -> tuple[Any, Any]:
    return grad(fast, slow, *constants), (fast, slow, constants)

  def backward(saved: Any, vector: Any) -> tuple[Any, ...]:
    fast, slow, constants = saved
    both = lambda fast: jax.grad(loss, argnums=(0, 1))(fast, slow, *constants)
    _, (to_fast, to_slow) = here.copy().run(jax.jvp, both, (fast,), (vector,))
    return (to_fast, to_slow, *(None for _ in constants))

  grad.defvjp(forward, backward)
  return grad
