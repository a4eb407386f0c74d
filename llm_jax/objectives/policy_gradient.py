"""Learning from rewards of what the policy itself writes: what GRPO and its relatives, RLOO and PPO share.

A step has rollouts, reads them with the policy as it is, and asks `terms` for the loss of each token: grpo.py, rloo.py
and ppo.py say what theirs are.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llm_jax.core.output import Output
from llm_jax.core.types import START, Batch, Extra, Key, Knobs, Losses, Objective, Params, Sampler, Score, Vocabulary
from llm_jax.objectives import policy_loss
from llm_jax.objectives import rollouts as rolled
from llm_jax.objectives.knob_ranges import check_not_negative
from llm_jax.objectives.policy_loss import Bounds, Kind, Level
from llm_jax.objectives.rollouts import Rollout, Rollouts


class Seen(NamedTuple):
  """What a loss is made from: N = B G completions, T = L - 1 places.

  logps, old, reference (N, T): log-probabilities under the policy, under the one that wrote, under the reference (the
  old ones where there is none); mask (N, T): 1 for tokens of completions; output: the policy's; room: tokens that a
  completion may have.
  """

  rollout: Rollout
  params: Params
  logps: jax.Array
  old: jax.Array
  reference: jax.Array
  mask: jax.Array
  output: Output
  room: int


class Terms(NamedTuple):
  """values, weights (N, T), as in Losses; told: numbers per token that are worth a curve."""

  values: jax.Array
  weights: jax.Array
  told: Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class PolicyGradient(Objective):
  """terms: the loss; beside: model -> the arrays that it trains beside the model's.

  Metrics: those of rollouts.report, `entropy` (minus the mean log-probability of the sampled tokens, an estimate), `kl`
  from the reference, and what `terms` tells. In an evaluation the loss is minus the mean reward.
  """

  rollouts: Rollouts
  terms: Callable[[Seen], Terms]
  reference: str | None = None
  whole_batch: bool = False
  beside: Callable[[Any], Mapping[str, Extra]] | None = None
  needs: tuple[str, ...] = ("causal",)

  @property
  def fields(self) -> tuple[str, ...]:  # type: ignore[override]
    return self.rollouts.fields

  @property
  def judges(self) -> tuple[str, ...]:  # type: ignore[override]
    return self.rollouts.reward.models

  @property
  def remembers(self) -> bool:  # type: ignore[override]
    return self.rollouts.updates > 1

  def for_tokenizer(self, tokenizer: Vocabulary) -> "PolicyGradient":
    return dataclasses.replace(self, rollouts=self.rollouts.for_tokenizer(tokenizer))

  def with_reference(self, apply: Callable) -> "PolicyGradient":
    return dataclasses.replace(self, rollouts=dataclasses.replace(self.rollouts, reference=apply))

  def with_judges(self, scores: Sequence[Score]) -> "PolicyGradient":
    reward = self.rollouts.reward.with_models(scores)
    return dataclasses.replace(self, rollouts=dataclasses.replace(self.rollouts, reward=reward))

  def with_sampler(self, sampler: Sampler) -> "PolicyGradient":
    return dataclasses.replace(self, rollouts=dataclasses.replace(self.rollouts, sampler=sampler))

  def extras(self, model: Any) -> Mapping[str, Extra]:
    return {} if self.beside is None else self.beside(model)

  def memory(self, batch: Batch) -> Rollout:
    return self.rollouts.memory(batch)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    rollout = self.rollouts.current(apply, params, batch, key)
    if key is None:
      return rolled.earned(rollout)
    logps_NT, output = self.rollouts.logprobs(apply, params, rollout)
    mask_NT, weights_N = rolled.mask(rollout), jnp.repeat(rollout["weights"], self.rollouts.group)
    old_NT = rolled.flat(rollout["old"]) if "old" in rollout else jax.lax.stop_gradient(logps_NT)
    reference_NT = rolled.flat(rollout["reference"]) if "reference" in rollout else old_NT
    found = self.terms(Seen(rollout, params, logps_NT, old_NT, reference_NT, mask_NT, output,
                            self.rollouts.room(batch)))
    told = {"entropy": -logps_NT, **found.told}
    told |= {"kl": policy_loss.k3(logps_NT, reference_NT)} if "reference" in rollout else {}
    metrics = rolled.report(rollout) | rolled.per_token(told, mask_NT * weights_N[:, None]) | output.metrics
    rows = lambda x_NT: rolled.by_prompt(x_NT, rollout)
    return Losses(rows(found.values), rows(found.weights * weights_N[:, None]), metrics, output.auxiliary,
                  carry=rollout if "carry" in batch else None)


@dataclasses.dataclass(frozen=True)
class Compared:
  """Terms without a model of the value: the baseline of a completion are the others of its prompt.

  advantage: rewards (B, G) -> (B, G); kind, level, bounds: as in policy_loss.surrogate; beta: of the divergence from
  the reference, added to the loss of each token, or taken off the reward of each completion (`in_reward`).
  """

  advantage: Callable[[jax.Array], jax.Array]
  kind: Kind
  level: Level
  bounds: Bounds
  beta: float
  in_reward: bool = False

  def __call__(self, seen: Seen) -> Terms:
    rewards_BG, penalty = seen.rollout["rewards"], jnp.zeros(())
    if self.in_reward:
      strayed_N = (policy_loss.k1(seen.old, seen.reference) * seen.mask).sum(1)
      rewards_BG = rewards_BG - self.beta * strayed_N.reshape(rewards_BG.shape)
    elif self.beta:
      penalty = self.beta * policy_loss.k3(seen.logps, seen.reference)
    found = policy_loss.surrogate(
        seen.logps, seen.old, self.advantage(rewards_BG).reshape(-1), seen.mask, kind=self.kind, level=self.level,
        bounds=self.bounds, longest=seen.room, penalty_NT=penalty)
    return Terms(found.values, found.weights, {"clip_fraction": found.clipped})


def referred(beta: float, reference: str | None) -> str | None:
  """The reference that a policy keeps near, if it does.

  Raises:
    ConfigError: a negative weight of the divergence.
  """
  check_not_negative("beta", beta)
  return START if beta and reference is None else reference
