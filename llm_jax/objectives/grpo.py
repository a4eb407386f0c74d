"""Group relative policy optimisation and its relatives: rewards compared within the completions of one prompt (Shao et
al. 2024, DeepSeekMath; policy_loss.py has the losses, advantages.py the comparison).
"""

import functools
from typing import Literal

from llm_jax.core.errors import ConfigError
from llm_jax.objectives import advantages, rewards, rollouts
from llm_jax.objectives.advantages import Scale
from llm_jax.objectives.knob_ranges import check_positive
from llm_jax.objectives.policy_gradient import Compared, PolicyGradient, referred
from llm_jax.objectives.policy_loss import Bounds, Kind
from llm_jax.objectives.rollouts import Rollouts


def build(*, reward: str | dict | list = "exact", group: int = 8, loss: Kind = "grpo",
          level: Literal["token", "sequence"] = "token", epsilon_low: float = 0.2, epsilon_high: float = 0.2,
          delta: float | None = None, beta: float = 0.0, reference: str | None = None, scale_rewards: Scale = "group",
          updates: int = 1, temperature: float = 1.0, positive_temperature: float = 1.0,
          negative_temperature: float = 1.05, chunk: int | str = "auto") -> PolicyGradient:
  """Group relative policy optimisation.

  Args:
    reward: what a completion is worth: a plug-in of llm_jax/rewards with its knobs, or a list of them, each with a
      `weight`.
    group: completions of each prompt.
    loss: grpo, bnpo, dr_grpo, dapo, cispo or sapo, see policy_loss.py.
    level: whose ratio is clipped: each token's, or the completion's geometric mean (GSPO).
    epsilon_low: a ratio counts down to 1 - epsilon_low.
    epsilon_high: and up to 1 + epsilon_high; for 'cispo' up to epsilon_high itself.
    delta: largest ratio where the advantage is negative (two-sided clipping); None is none.
    beta: weight of the divergence from the reference (estimator k3), added to each token's loss.
    reference: the workdir of a run or a Hugging Face folder, with the same tokenizer; None: where beta is above 0, the
      model as the run starts, which --init_from gives.
    scale_rewards: rewards minus their mean are divided by the deviation of the group, of the batch, or by nothing.
    updates: steps on one set of rollouts; only from the second on do ratios differ from 1.
    temperature: of the policy.
    positive_temperature: of 'sapo', for advantages above 0.
    negative_temperature: of 'sapo', for the others.
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.
  """
  rollouts.checked(group, temperature, updates, 2)
  reference = referred(beta, reference)
  for name, value in (("epsilon_low", epsilon_low), ("epsilon_high", epsilon_high),
                      ("positive_temperature", positive_temperature), ("negative_temperature", negative_temperature)):
    check_positive(name, value)
  if delta is not None and delta <= 1 + epsilon_high:
    raise ConfigError("config.objective.delta", f"got {delta:g}", accepted=f"a number above 1 + epsilon_high = "
                      f"{1 + epsilon_high:g}, or None")
  bounds = Bounds(epsilon_low, epsilon_high, delta, (positive_temperature, negative_temperature))
  made = Rollouts(rewards.bind(reward), group, temperature, updates, reference is not None, chunk)
  terms = Compared(functools.partial(advantages.group_relative, scale=scale_rewards), loss, level, bounds, beta)
  return PolicyGradient(made, terms, reference, whole_batch=scale_rewards == "batch")
