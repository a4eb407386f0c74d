"""What an update rule is told: the parameters it trains, how they are named and stacked, and the shared settings.

A rule's `build(context, *, knobs)` returns the *direction* of the update, an optax transformation that neither knows
the learning rate nor clips: `chain.py` does both. All arithmetic is float32 (`chain.py` casts). States must be made by
`jax.tree.map` over the params they are given, never by looking names up: `optax.tree.map_params`, which shards the
moments, calls `init` with a stand-in for the params.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax

from llm_jax.core.errors import ConfigError
from llm_jax.optimizers.matrices import Axes


@dataclasses.dataclass(frozen=True)
class OptimizerContext:
  """shapes and axes: the trained parameters' shapes and logical axes; decayed: names that weight decay acts on;
  moment_dtype: dtype of first moments; peak: highest learning rate; key: the config path; known_axes: False if nobody
  said what the axes mean; notes: lines for the dry run, which a rule may add to."""

  shapes: Mapping[str, Any]
  axes: Mapping[str, Axes]
  decayed: frozenset[str]
  moment_dtype: Any = jnp.float32
  peak: float = 1.0
  key: str = "config.optimizer"
  known_axes: bool = True
  notes: list[str] = dataclasses.field(default_factory=list)

  def weight_decay(self, rate: float) -> optax.GradientTransformation:
    """Decoupled weight decay (Loshchilov and Hutter 2019): adds rate * w, then multiplied by the learning rate.

    Raises:
      ConfigError: a negative rate.
    """
    self.check("weight_decay", rate, 0)
    return add_weights(self.decayed, lambda w: rate * w) if rate else optax.identity()

  def check(self, knob: str, value: float, low: float, high: float = float("inf"), *, below: bool = False) -> None:
    """Raises ConfigError unless low <= value <= high (value < high if `below`)."""
    if not low <= value <= high or (below and value == high):
      upper = "" if high == float("inf") else f" {'<' if below else '<='} {high:g}"
      raise ConfigError(f"{self.key}.{knob}", f"got {value}", accepted=f"{low:g} <= {knob}{upper}")


def add_weights(names: frozenset[str], term: Any) -> optax.GradientTransformation:
  """Adds term(w) to the update of the named parameters. Stateless, and not `optax.masked`: that cannot be mapped over
  by `optax.tree.map_params` when the mask is a dict of names."""
  def update(updates: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    return {n: u + term(params[n]) if n in names else u for n, u in updates.items()}
  return optax.stateless(update)
