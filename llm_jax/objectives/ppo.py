"""Proximal policy optimisation of a language model (Schulman et al. 2017; Ouyang et al. 2022): a token is an action, a
learned value says what was to be expected, and generalized advantage estimation says how much better it came.

    reward of a token = -beta (log p_old - log p_reference), and at the last one of a completion also what that earned
    loss = clipped ratio loss + value_weight * clipped value loss, means over all tokens

The value is a linear map of the model's last hidden state: one vector and one number, trained beside the model
('critic.kernel', 'critic.bias') and left out where the model is taken from the run.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.output import Output
from llm_jax.core.types import Extra, Params
from llm_jax.objectives import advantages, policy_loss, rewards, rollouts
from llm_jax.objectives.knob_ranges import check_positive
from llm_jax.objectives.policy_gradient import PolicyGradient, Seen, Terms, referred
from llm_jax.objectives.policy_loss import Bounds
from llm_jax.objectives.rollouts import Rollouts

KERNEL, BIAS = "critic.kernel", "critic.bias"


def critic(model: Any) -> Mapping[str, Extra]:
  """The value's arrays for this model, zeros at first."""
  ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  hidden = jax.eval_shape(lambda p, i: model.apply(p, input_ids=i).hidden, model.shapes, ids)
  zeros = lambda shape: Extra(shape, (None,) * len(shape), lambda key: jnp.zeros(shape, jnp.float32))
  return {KERNEL: zeros((hidden.shape[-1],)), BIAS: zeros(())}


def values(params: Params, output: Output) -> jax.Array:
  """(N, L - 1): what is expected before each of the tokens 1 .. L-1."""
  assert output.hidden is not None
  return output.hidden[:, :-1].astype(jnp.float32) @ params[KERNEL] + params[BIAS]


@dataclasses.dataclass(frozen=True)
class Valued:
  """Terms with a learned value. See `build`."""

  bounds: Bounds
  beta: float
  gamma: float
  lam: float
  value_weight: float
  value_clip: float | None
  whiten: bool

  def __call__(self, seen: Seen) -> Terms:
    mask, earned_N = seen.mask, seen.rollout["rewards"].reshape(-1)
    old_NT = rollouts.flat(seen.rollout["values"]) * mask
    found, returns = advantages_of(seen.old, seen.reference, earned_N, old_NT, mask, self)
    found = advantages.whiten(found, mask) if self.whiten else found
    policy = policy_loss.surrogate(seen.logps, seen.old, found, mask, kind="bnpo", bounds=self.bounds)
    errors = policy_loss.value_losses(values(seen.params, seen.output), old_NT, returns, self.value_clip)
    return Terms(policy.values + self.value_weight * errors, policy.weights,
                 {"clip_fraction": policy.clipped, "value_loss": errors, "value": old_NT, "return": returns})


def advantages_of(old_NT: jax.Array, reference_NT: jax.Array, earned_N: jax.Array, values_NT: jax.Array,
                  mask_NT: jax.Array, how: Valued) -> tuple[jax.Array, jax.Array]:
  """-> (advantages, returns), 0 outside the completions, which end where their mask does."""
  last_NT = mask_NT * (1.0 - jnp.pad(mask_NT[:, 1:], ((0, 0), (0, 1))))
  rewards_NT = last_NT * earned_N[:, None] - how.beta * policy_loss.k1(old_NT, reference_NT) * mask_NT
  found = mask_NT * advantages.generalized(rewards_NT, values_NT, last_NT, jnp.zeros_like(earned_N), gamma=how.gamma,
                                           lam=how.lam)
  return found, found + values_NT


def build(*, reward: str | dict | list = "exact", group: int = 1, epsilon: float = 0.2, gamma: float = 1.0,
          lam: float = 0.95, value_weight: float = 0.5, value_clip: float | None = 0.2, whiten: bool = True,
          beta: float = 0.0, reference: str | None = None, updates: int = 4, temperature: float = 1.0,
          chunk: int | str = "auto") -> PolicyGradient:
  """Proximal policy optimisation.

  Args:
    reward: what a completion is worth: a plug-in of llm_jax/rewards with its knobs, or a list of them, each with a
      `weight`.
    group: completions of each prompt.
    epsilon: the ratio of a token counts from 1 - epsilon to 1 + epsilon.
    gamma: how much a reward counts one token earlier.
    lam: of generalized advantage estimation: 0 trusts the values, 1 the returns.
    value_weight: of the value's loss beside the policy's.
    value_clip: the value counts within so much of what it was when the rollouts were made; None: everywhere.
    whiten: advantages get mean 0 and deviation 1 over the tokens of the batch.
    beta: weight of the divergence from the reference (estimator k1) in each token's reward.
    reference: the workdir of a run or a Hugging Face folder, with the same tokenizer; None: where beta is above 0, the
      model as the run starts, which --init_from gives.
    updates: steps on one set of rollouts.
    temperature: of the policy.
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.
  """
  rollouts.checked(group, temperature, updates, 1)
  reference = referred(beta, reference)
  for name, value in (("gamma", gamma), ("lam", lam)):
    if not 0 <= value <= 1:
      raise ConfigError(f"config.objective.{name}", f"got {value:g}", accepted="between 0 and 1")
  for name, positive in (("epsilon", epsilon), ("value_weight", value_weight), ("value_clip", value_clip)):
    if positive is not None:
      check_positive(name, positive)
  made = Rollouts(rewards.bind(reward), group, temperature, updates, reference is not None, chunk, values=values)
  terms = Valued(Bounds(epsilon, epsilon), beta, gamma, lam, value_weight, value_clip, whiten)
  return PolicyGradient(made, terms, reference, whole_batch=whiten, beside=critic)
