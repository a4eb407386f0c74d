"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024): completions that are wanted or not, without pairs.

With r = log p(y | x) / p_ref(y | x), and z the reference point:

    wanted      w_desirable   (1 - sigma(beta (r - z)))                             equation 8
    unwanted    w_undesirable (1 - sigma(beta (z - r)))

z = max(0, mean of r over completions that do not belong to their prompts), an estimate of KL(policy || reference) that
is not differentiated: a statistic of the whole batch, so that runs with train.accumulate are refused.
apo_zero_unpaired has z = 0 (D'Oosterlinck et al. 2024).
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from llm_jax.core.types import START, Batch, Key, Knobs, Losses, Mean, Metrics, Objective, Params
from llm_jax.objectives.knob_ranges import check_positive
from llm_jax.objectives.token_logprobs import token_logprobs

Kind = Literal["kto", "apo_zero_unpaired"]


@dataclasses.dataclass(frozen=True)
class KTO(Objective):
  """One value per completion. Metrics: `rewards_chosen` and `rewards_rejected` (beta r of those that are wanted or
  not), `rewards_accuracies` (wanted ones with r > z, unwanted ones with r < z) and `kl` (z)."""

  loss: Kind
  beta: float
  desirable: float
  undesirable: float
  chunk: int | str
  reference: str | None = START
  theirs: Callable | None = None
  needs: tuple[str, ...] = ("causal",)

  @property
  def fields(self) -> tuple[str, ...]:  # type: ignore[override]
    mismatched = ("mismatched", "mismatched_parts") if self.loss == "kto" else ()
    return ("completion", "completion_parts", "label", "weights", *mismatched)

  @property
  def whole_batch(self) -> bool:  # type: ignore[override]
    return self.loss == "kto"

  def with_reference(self, apply: Callable) -> "KTO":
    return dataclasses.replace(self, theirs=apply)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    assert self.theirs is not None
    weights, wanted = batch["weights"], batch["label"] > 0
    own = (batch["completion"], batch["completion_parts"])
    policy, output = token_logprobs(apply, params, *own, key=key, chunk=self.chunk)
    ratio = policy.sum(1) - self._reference(params, *own)
    point = self._point(apply, params, batch)
    values = self.compare(ratio, wanted, point)
    return Losses(values, weights, metrics(self.beta * ratio, wanted, self.beta * point, weights)
                  | {"kl": Mean(point * weights.sum(), weights.sum())} | output.metrics, output.auxiliary)

  def compare(self, ratio: jax.Array, wanted: jax.Array, point: jax.Array) -> jax.Array:
    """(B,): the loss of log-ratios r (B,), whether each is wanted (B,), and z."""
    gain = jnp.where(wanted, ratio - point, point - ratio)
    return jnp.where(wanted, self.desirable, self.undesirable) * jax.nn.sigmoid(-self.beta * gain)

  def _reference(self, params: Params, tokens: jax.Array, parts: jax.Array) -> jax.Array:
    assert self.theirs is not None
    return jax.lax.stop_gradient(token_logprobs(self.theirs, params, tokens, parts, chunk=self.chunk)[0].sum(1))

  def _point(self, apply: Callable, params: Params, batch: Batch) -> jax.Array:
    if self.loss == "apo_zero_unpaired":
      return jnp.zeros(())
    rows = (batch["mismatched"], batch["mismatched_parts"])
    ours = token_logprobs(apply, params, *rows, chunk=self.chunk)[0].sum(1)
    return reference_point(ours, self._reference(params, *rows), batch["weights"])


def reference_point(policy: jax.Array, reference: jax.Array, weights: jax.Array) -> jax.Array:
  """z, of log-probabilities (B,) of mismatched completions under both models; not differentiated."""
  mean = ((policy - reference) * weights).sum() / jnp.maximum(weights.sum(), 1e-8)
  return jax.lax.stop_gradient(jnp.maximum(mean, 0.0))


def metrics(rewards: jax.Array, wanted: jax.Array, point: jax.Array, weights: jax.Array) -> Metrics:
  """Those of the class, of rewards (B,)."""
  rewards = jax.lax.stop_gradient(rewards)
  right = jnp.where(wanted, rewards > point, rewards < point).astype(jnp.float32)
  chosen, rejected = weights * wanted, weights * ~wanted
  return {"rewards_chosen": Mean((rewards * chosen).sum(), chosen.sum()),
          "rewards_rejected": Mean((rewards * rejected).sum(), rejected.sum()),
          "rewards_accuracies": Mean((right * weights).sum(), weights.sum())}


def build(*, loss: Kind = "kto", beta: float = 0.1, desirable: float = 1.0, undesirable: float = 1.0,
          reference: str | None = None, chunk: int | str = "auto") -> KTO:
  """Kahneman-Tversky optimisation, over config.data.form='unpaired'.

  Args:
    loss: kto or apo_zero_unpaired.
    beta: how much a log-ratio counts.
    desirable: weight of wanted completions; the paper keeps its ratio to the other one at the inverse of their numbers.
    undesirable: weight of unwanted ones.
    reference: the workdir of a run or a Hugging Face folder, with the same tokenizer; None is the model itself as the
      run starts, which --init_from gives.
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.

  Raises:
    ConfigError: a number that is not above 0.
  """
  for knob, value in (("beta", beta), ("desirable", desirable), ("undesirable", undesirable)):
    check_positive(knob, value)
  return KTO(loss, beta, desirable, undesirable, chunk, reference=reference or START)
