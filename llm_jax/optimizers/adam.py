"""Adam (Kingma and Ba 2015) without decoupled decay; the shared `l2` is the classic coupled penalty. See adamw."""

import optax

from llm_jax.optimizers.context import OptimizerContext


def build(context: OptimizerContext, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
          nesterov: bool = False) -> optax.GradientTransformation:
  """m / (sqrt(v) + eps), with bias-corrected moments m and v.

  Args:
    b1: decay of the mean of gradients.
    b2: decay of the mean of squared gradients.
    eps: added to the root of the second moment.
    nesterov: look ahead in the first moment (NAdam, Dozat 2016).
  """
  context.check("b1", b1, 0, 1, below=True)
  context.check("b2", b2, 0, 1, below=True)
  context.check("eps", eps, 0)
  return optax.scale_by_adam(b1, b2, eps, mu_dtype=context.moment_dtype, nesterov=nesterov)
