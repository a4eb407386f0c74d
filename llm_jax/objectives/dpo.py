"""Direct preference optimisation (Rafailov et al. 2023) and the losses that came after it: a policy learns from pairs
of completions by how much more likely than a frozen reference it makes each. objectives/dpo_losses.py has the losses.
"""

import dataclasses
from collections.abc import Callable

import jax

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import START, Batch, Key, Knobs, Losses, Objective, Params
from llm_jax.objectives.dpo_losses import LOSSES, SCORED, SCORES, SMOOTHED, Compared, Divergence, Kind
from llm_jax.objectives.knob_ranges import check_not_negative, check_positive
from llm_jax.objectives.preference_pairs import FIELDS, Pair, logprobs, reward_metrics, sizes


@dataclasses.dataclass(frozen=True)
class DPO(Objective):
  """One value per pair. The reward of a completion is beta times its log-ratio, see `reward_metrics`."""

  loss: Kind
  beta: float
  label_smoothing: float
  divergence: Divergence
  alpha: float
  supervised: float
  chunk: int | str
  reference: str | None = START
  theirs: Callable | None = None
  fields: tuple[str, ...] = FIELDS
  needs: tuple[str, ...] = ("causal",)

  def with_reference(self, apply: Callable) -> "DPO":
    return dataclasses.replace(self, theirs=apply)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    assert self.theirs is not None
    policy, output = logprobs(apply, params, batch, key, self.chunk)
    reference = jax.lax.stop_gradient(logprobs(self.theirs, params, batch, None, self.chunk)[0])
    size, weights = sizes(batch), batch["weights"]
    values, rewards = self.compare(policy, reference, size)
    values = values - self.supervised * policy.chosen / size.chosen if self.supervised else values
    return Losses(values, weights, reward_metrics(rewards, weights) | output.metrics, output.auxiliary)

  def compare(self, policy: Pair, reference: Pair, size: Pair) -> tuple[jax.Array, Pair]:
    """(values (B,), rewards) of log-probabilities under both models; size: tokens of the completions."""
    ratios = Pair(policy.chosen - reference.chosen, policy.rejected - reference.rejected)
    scored = Pair(*(SCORES[self.divergence](r, self.alpha) for r in ratios))
    values = LOSSES[self.loss](Compared(ratios, scored, scored.per(size), self.beta, self.label_smoothing))
    return values, Pair(self.beta * ratios.chosen, self.beta * ratios.rejected)


def build(*, loss: Kind = "sigmoid", beta: float = 0.1, label_smoothing: float = 0.0,
          divergence: Divergence = "reverse_kl", alpha: float = 0.5, supervised: float = 0.0,
          reference: str | None = None, chunk: int | str = "auto") -> DPO:
  """Direct preference optimisation.

  Args:
    loss: which of objectives/dpo_losses.py: sigmoid, robust, hinge, ipo (means over tokens), ipo_summed, sigmoid_norm,
      exo_pair, nca_pair, bco_pair, sppo_hard, apo_zero, apo_down.
    beta: how much a log-ratio counts; small lets the policy go far from the reference.
    label_smoothing: share of pairs whose label is taken to be wrong; sigmoid, robust and exo_pair have it.
    divergence: from the reference, for the losses that are made of scores.
    alpha: of the alpha divergence; 1 is the reverse KL.
    supervised: weight of the chosen completion's mean negative log-likelihood per token (Pang et al. 2024).
    reference: the workdir of a run or a Hugging Face folder, with the same tokenizer; None is the model itself as the
      run starts, which --init_from gives.
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.

  Raises:
    ConfigError: a number out of its range, or a knob that the loss does not have.
  """
  check_positive("beta", beta)
  if not 0 <= label_smoothing < 0.5 or (loss == "exo_pair" and not label_smoothing):
    raise ConfigError("config.objective.label_smoothing", f"got {label_smoothing:g}", accepted="a share below 0.5" + (
        ", above 0 for exo_pair" if loss == "exo_pair" else ""))
  if label_smoothing and loss not in SMOOTHED:
    raise ConfigError("config.objective.label_smoothing", f"{loss!r} has none", accepted=f"0, or {', '.join(SMOOTHED)}")
  if divergence != "reverse_kl" and loss not in SCORED:
    raise ConfigError("config.objective.divergence", f"{loss!r} is made of log-ratios alone",
                      accepted=f"'reverse_kl', or {', '.join(SCORED)}")
  check_not_negative("supervised", supervised)
  return DPO(loss, beta, label_smoothing, divergence, alpha, supervised, chunk, reference=reference or START)
