"""A reward model of pairs (Bradley and Terry 1952; Stiennon et al. 2020, section 3.4): a network with one score per
text learns to score the preferred completion higher.

    loss = -log sigma(r(chosen) - r(rejected) - margin) + centring (r(chosen) + r(rejected))^2

margin: by how much the data say that the first is better (Touvron et al. 2023, equation 2); centring keeps the rewards
around zero (Eisenstein et al. 2023).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.row_parts import PADDING
from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params
from llm_jax.objectives.knob_ranges import check_not_negative
from llm_jax.objectives.preference_pairs import FIELDS, Pair, apart, reward_metrics, side_by_side


@dataclasses.dataclass(frozen=True)
class Reward(Objective):
  """One value per pair; see `reward_metrics`. The reward is the only score of the network's head."""

  margin: bool
  centring: float
  needs: tuple[str, ...] = ("classes",)

  @property
  def fields(self) -> tuple[str, ...]:  # type: ignore[override]
    return (*FIELDS, "margin") if self.margin else FIELDS

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    tokens, parts = side_by_side(batch, "chosen", "rejected")
    output = apply(params, input_ids=tokens, attention_mask=(parts != PADDING).astype(jnp.int32), key=key)
    if output.scores.shape[-1] != 1:
      raise ConfigError("config.model.labels", f"{output.scores.shape[-1]} scores, and a reward is one", accepted="1")
    rewards, weights = apart(output.scores[:, 0].astype(jnp.float32)), batch["weights"]
    values = self.compare(rewards, batch["margin"] if self.margin else 0.0)
    return Losses(values, weights, reward_metrics(rewards, weights) | output.metrics, output.auxiliary)

  def compare(self, rewards: Pair, margin: jax.Array | float) -> jax.Array:
    """(B,): the loss of the docstring."""
    values = -jax.nn.log_sigmoid(rewards.chosen - rewards.rejected - margin)
    return values + self.centring * jnp.square(rewards.chosen + rewards.rejected) if self.centring else values


def build(*, margin: bool = False, centring: float = 0.0) -> Reward:
  """A reward model; the network has a head for one label: config.model.head='sequence', labels=1.

  Args:
    margin: the data's 'margin' is subtracted from the difference of the rewards.
    centring: weight of the square of a pair's summed rewards.

  Raises:
    ConfigError: a negative centring.
  """
  check_not_negative("centring", centring)
  return Reward(margin, centring)
