"""Stochastic gradient descent with heavy-ball or Nesterov momentum (Sutskever et al. 2013)."""

import optax

from llm_jax.optimizers.context import OptimizerContext


def build(context: OptimizerContext, *, momentum: float = 0.9, nesterov: bool = False,
          weight_decay: float = 0.0) -> optax.GradientTransformation:
  """m = g + momentum * m; the update is m, or g + momentum * m with Nesterov; no damping, as in PyTorch.

  Args:
    momentum: factor on the running sum of gradients; 0 keeps no state.
    nesterov: step along the gradient as seen from where the momentum leads.
    weight_decay: decoupled decay (SGDW) per update, multiplied by the learning rate; `l2` is the coupled one.

  Raises:
    ConfigError: Nesterov without momentum, or a value out of range.
  """
  context.check("momentum", momentum, 0, 1, below=True)
  if nesterov:
    context.check("momentum", momentum, 1e-6, 1, below=True)
  trace = optax.trace(momentum, nesterov, context.moment_dtype) if momentum else optax.identity()
  return optax.chain(trace, context.weight_decay(weight_decay))
