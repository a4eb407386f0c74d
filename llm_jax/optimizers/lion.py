"""Lion: the sign of an interpolated momentum (Chen et al. 2023). Half of Adam's state; wants a 3 to 10 times smaller
peak and a weight decay as many times larger, because every coordinate moves by exactly the learning rate."""

import optax

from llm_jax.optimizers.context import OptimizerContext


def build(context: OptimizerContext, *, b1: float = 0.9, b2: float = 0.99,
          weight_decay: float = 0.1) -> optax.GradientTransformation:
  """sign(b1 m + (1 - b1) g) + weight_decay * w; then m = b2 m + (1 - b2) g.

  Args:
    b1: weight of the momentum in the update.
    b2: decay of the momentum.
    weight_decay: decoupled decay per update, multiplied by the learning rate; see decay_exclude.
  """
  context.check("b1", b1, 0, 1, below=True)
  context.check("b2", b2, 0, 1, below=True)
  return optax.chain(optax.scale_by_lion(b1, b2, mu_dtype=context.moment_dtype), context.weight_decay(weight_decay))
