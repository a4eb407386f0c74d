"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019), the default of language model training."""

import optax

from llm_jax.optimizers.context import OptimizerContext


def build(context: OptimizerContext, *, b1: float = 0.9, b2: float = 0.95, eps: float = 1e-8,
          weight_decay: float = 0.1) -> optax.GradientTransformation:
  """m / (sqrt(v) + eps) + weight_decay * w, with bias-corrected moments m and v.

  Args:
    b1: decay of the mean of gradients.
    b2: decay of the mean of squared gradients; 0.95 as in GPT-3 and Llama, 0.999 for fine-tuning small models.
    eps: added to the root of the second moment.
    weight_decay: decoupled decay per update, multiplied by the learning rate; see decay_exclude.
  """
  context.check("b1", b1, 0, 1, below=True)
  context.check("b2", b2, 0, 1, below=True)
  context.check("eps", eps, 0)
  adam = optax.scale_by_adam(b1, b2, eps, mu_dtype=context.moment_dtype)
  return optax.chain(adam, context.weight_decay(weight_decay))
