"""Prototypical networks (Snell, Swersky, Zemel 2017): a query is of the class whose mean support embedding is nearest.

    p(y = c | x) = softmax_c(-|f(x) - mean of f over the support of class c|^2)        (equation 2)

It reads whole episodes and needs no inner loop: train it with `meta_learning = dict(name='none')`. The embedding f is
the network's scores, whose width need not be the number of classes.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params
from llm_jax.objectives.labels import losses_of

FIELDS = tuple(f"{part}.{field}" for part in ("support", "query") for field in ("inputs", "labels", "weights"))
ABSENT = 1e9  # distance of a class without support: fewer classes than there could be


@dataclasses.dataclass(frozen=True)
class Prototypical(Objective):
  """Cross-entropy of the queries in nats, and their accuracy; raw: distances between the inputs themselves."""

  ways: int
  raw: bool
  fields: tuple[str, ...] = FIELDS
  needs: tuple[str, ...] = ("scores",)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    support, query = batch["support"], batch["query"]
    embed = lambda x: x if self.raw else apply(params, inputs=x, key=key).scores
    support_TSD, query_TQD = embed(support["inputs"]), embed(query["inputs"])
    member_TSC = (support["labels"][..., None] == jnp.arange(self.ways)) * support["weights"][..., None]
    sums_TCD = jnp.einsum("tsc,tsd->tcd", member_TSC, support_TSD)
    means_TCD = sums_TCD / jnp.maximum(member_TSC.sum(1), 1e-8)[..., None]
    distance_TQC = jnp.square(query_TQD[:, :, None] - means_TCD[:, None]).sum(-1)
    distance_TQC = jnp.where(member_TSC.any(1)[:, None], distance_TQC, ABSENT)
    return losses_of(-distance_TQC, query["labels"], query["weights"])


def build(*, ways: int = 5, raw: bool = False) -> Prototypical:
  """Prototypical networks.

  Args:
    ways: classes in an episode.
    raw: classify by the nearest mean of the inputs, without the network (a baseline: the loss does not train it).
  """
  if ways < 2:
    raise ConfigError("config.objective.ways", f"got {ways}", accepted="a whole number from 2")
  return Prototypical(ways, raw)
