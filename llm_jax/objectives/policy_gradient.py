"""Learning from rewards without a model of the value: a baseline from the other completions of a prompt, and one of the
losses of policy_loss.py. What GRPO, its relatives and RLOO share; grpo.py and rloo.py say what each chooses.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params, Sampler, Vocabulary
from llm_jax.objectives import policy_loss
from llm_jax.objectives import rollouts as rolled
from llm_jax.objectives.policy_loss import Bounds, Kind, Level
from llm_jax.objectives.rollouts import Rollout, Rollouts


@dataclasses.dataclass(frozen=True)
class PolicyGradient(Objective):
  """advantage: rewards (B, G) -> (B, G); beta: of the divergence from the reference, added to the loss of each token
  (`kl_in='loss'`) or taken off the reward of each completion ('reward').

  Metrics: those of rollouts.report, `clip_fraction`, `entropy` (minus the mean log-probability of the sampled tokens,
  an estimate), `kl` from the reference. In an evaluation the loss is minus the mean reward.
  """

  rollouts: Rollouts
  advantage: Callable[[jax.Array], jax.Array]
  kind: Kind
  level: Level
  bounds: Bounds
  beta: float
  kl_in: str
  reference: str | None = None
  whole_batch: bool = False
  needs: tuple[str, ...] = ("causal",)

  @property
  def fields(self) -> tuple[str, ...]:  # type: ignore[override]
    return self.rollouts.fields

  @property
  def remembers(self) -> bool:  # type: ignore[override]
    return self.rollouts.updates > 1

  def for_tokenizer(self, tokenizer: Vocabulary) -> "PolicyGradient":
    return dataclasses.replace(self, rollouts=self.rollouts.for_tokenizer(tokenizer))

  def with_reference(self, apply: Callable) -> "PolicyGradient":
    return dataclasses.replace(self, rollouts=dataclasses.replace(self.rollouts, reference=apply))

  def with_sampler(self, sampler: Sampler) -> "PolicyGradient":
    return dataclasses.replace(self, rollouts=dataclasses.replace(self.rollouts, sampler=sampler))

  def memory(self, batch: Batch) -> Rollout:
    return self.rollouts.memory(batch)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    rollout = self.rollouts.current(apply, params, batch, key)
    if key is None:
      return rolled.earned(rollout)
    logps_NT, output = self.rollouts.logprobs(apply, params, rollout)
    mask_NT, weights_N = rolled.mask(rollout), jnp.repeat(rollout["weights"], self.rollouts.group)
    old_NT = rolled.flat(rollout["old"]) if self.rollouts.keeps_old else jax.lax.stop_gradient(logps_NT)
    reference_NT = rolled.flat(rollout["reference"]) if self.rollouts.refers else old_NT
    rewards_BG, penalty = rollout["rewards"], jnp.zeros(())
    if self.kl_in == "reward":
      strayed_N = (policy_loss.k1(old_NT, reference_NT) * mask_NT).sum(1)
      rewards_BG = rewards_BG - self.beta * strayed_N.reshape(rewards_BG.shape)
    elif self.beta:
      penalty = self.beta * policy_loss.k3(logps_NT, reference_NT)
    found = policy_loss.surrogate(
        logps_NT, old_NT, jax.lax.stop_gradient(self.advantage(rewards_BG)).reshape(-1), mask_NT, kind=self.kind,
        level=self.level, bounds=self.bounds, longest=self.rollouts.room(batch), penalty_NT=penalty)
    told = {"clip_fraction": found.clipped, "entropy": -logps_NT}
    told |= {"kl": policy_loss.k3(logps_NT, reference_NT)} if self.rollouts.refers else {}
    metrics = rolled.report(rollout) | rolled.per_token(told, mask_NT * weights_N[:, None]) | output.metrics
    rows = lambda x_NT: rolled.by_prompt(x_NT, rollout)
    return Losses(rows(found.values), rows(found.weights * weights_N[:, None]), metrics, output.auxiliary,
                  carry=rollout if "carry" in batch else None)
