"""LayerNorm tuning (Zhao et al. 2024): the scales and biases of the norms are trained, and nothing is added.

The adapted model is the model; what its norms become is kept apart in an adapter folder.
"""

from llm_jax.core.model import Model
from llm_jax.core.names import select
from llm_jax.peft.adapted import KEY, Method, frozen_but


def build(*, targets: str = r"norm\.(scale|bias)$") -> Method:
  """LayerNorm tuning.

  Args:
    targets: regular expression over the names of the parameters that are trained.
  """
  def adapt(model: Model) -> Model:
    select(model.shapes, targets, f"{KEY}.targets")
    return model
  return Method(adapt, frozen_but(targets), dict, "ln_tuning", dict(targets=targets))
