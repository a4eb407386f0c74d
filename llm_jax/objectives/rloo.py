"""REINFORCE with the other completions of the prompt as the baseline (Kool et al. 2019; Ahmadian et al. 2024, Back to
basics: RLOO): a completion is one action, so the ratio is that of the whole completion, and the divergence from the
reference is taken off its reward.
"""

from llm_jax.objectives import advantages, rewards, rollouts
from llm_jax.objectives.knob_ranges import check_positive
from llm_jax.objectives.policy_gradient import Compared, PolicyGradient, referred
from llm_jax.objectives.policy_loss import Bounds
from llm_jax.objectives.rollouts import Rollouts


def build(*, reward: str | dict | list = "exact", group: int = 4, epsilon: float = 0.2, beta: float = 0.0,
          reference: str | None = None, updates: int = 1, temperature: float = 1.0,
          chunk: int | str = "auto") -> PolicyGradient:
  """REINFORCE, leave one out.

  Args:
    reward: what a completion is worth: a plug-in of llm_jax/rewards with its knobs, or a list of them, each with a
      `weight`.
    group: completions of each prompt.
    epsilon: the ratio of a completion counts from 1 - epsilon to 1 + epsilon.
    beta: weight of the divergence from the reference (estimator k1, summed over the completion) in the reward.
    reference: the workdir of a run or a Hugging Face folder, with the same tokenizer; None: where beta is above 0, the
      model as the run starts, which --init_from gives.
    updates: steps on one set of rollouts; only from the second on do ratios differ from 1.
    temperature: of the policy.
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.
  """
  rollouts.checked(group, temperature, updates, 2)
  reference = referred(beta, reference)
  check_positive("epsilon", epsilon)
  made = Rollouts(rewards.bind(reward), group, temperature, updates, reference is not None, chunk)
  terms = Compared(advantages.leave_one_out, "grpo", "product", Bounds(epsilon, epsilon), beta, in_reward=True)
  return PolicyGradient(made, terms, reference)
