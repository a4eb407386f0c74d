"""DoReMi: domain weights that a small proxy model learns against a reference (Xie et al. 2023, algorithm 1).

Rows are drawn from all domains alike, their losses weighted by alpha; after each step alpha <- alpha exp(eta excess),
normalised, (1 - c) alpha + c / K, where the excess of a domain is the mean over its tokens of max(loss - reference, 0).
What the run is for is the average of alpha over its steps: DIR/curriculum.json, to be used as `config.data.mixture`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Curriculum, Knobs, Loss, Losses, Plan
from llm_jax.curriculum import arms
from llm_jax.curriculum.weighing import by_domain, weighted


@dataclasses.dataclass(frozen=True)
class DoReMi(Curriculum):
  """State: log alpha, the sum of alpha over the observed steps, and their number."""

  batch: int
  length: int
  rate: float
  smoothing: float
  reference: str | None = None
  domains: tuple[str, ...] = ()
  adaptive: bool = True
  sets: tuple[str, ...] = ("mixture", "knobs")
  fields: tuple[str, ...] = ("domain",)

  def for_domains(self, domains: tuple[str, ...]) -> "DoReMi":
    arms.check(domains, self.batch, 1)
    return dataclasses.replace(self, domains=domains)

  def init(self) -> dict[str, Any]:
    n = len(self.domains)
    return {"alpha": [1.0 / max(n, 1)] * n, "sums": [0.0] * n, "updates": 0}

  def plan(self, step: int, state: Mapping[str, Any]) -> Plan:
    if not self.domains:
      return Plan(self.batch, self.length)
    knobs = {f"alpha/{d}": a for d, a in zip(self.domains, state["alpha"], strict=True)}
    return Plan(self.batch, self.length, mixture={d: 1.0 / len(self.domains) for d in self.domains}, knobs=knobs)

  def weighting(self, losses: Losses, knobs: Knobs) -> Loss:
    assert losses.about is not None
    alpha = jnp.stack([jnp.asarray(knobs[f"alpha/{d}"], jnp.float32) for d in self.domains])
    excess = jnp.maximum(losses.values - losses.about["reference"], 0.0)
    metrics = by_domain(losses, self.domains) | by_domain(losses, self.domains, excess, "excess")
    return weighted(losses, alpha[losses.about["domain"]] * len(self.domains), metrics)

  def observe(self, state: Mapping[str, Any], step: int, metrics: Mapping[str, float]) -> dict[str, Any]:
    seen = arms.seen(metrics, self.domains, "excess")
    if not seen:
      return dict(state)
    n, alpha = len(self.domains), state["alpha"]
    raised = exponentiated(alpha, [self.rate * seen[i][0] if i in seen else 0.0 for i in range(n)])
    alpha = [(1 - self.smoothing) * a + self.smoothing / n for a in raised]
    return {"alpha": alpha, "sums": [s + a for s, a in zip(state["sums"], alpha, strict=True)],
            "updates": state["updates"] + 1}

  def result(self, state: Mapping[str, Any]) -> dict[str, Any]:
    """{'mixture': the average of alpha, 'last': alpha, 'steps'}."""
    count = max(state["updates"], 1)
    average = [s / count for s in state["sums"]] if state["updates"] else state["alpha"]
    return {"mixture": dict(zip(self.domains, average, strict=True)),
            "last": dict(zip(self.domains, state["alpha"], strict=True)), "steps": state["updates"]}


def exponentiated(shares: list[float], gains: list[float]) -> list[float]:
  """shares * exp(gains), normalised, without overflow."""
  lifted = arms.softmax(gains)
  total = sum(s * g for s, g in zip(shares, lifted, strict=True))
  if not total > 0:  # the only shares left are those that the largest gain leaves behind by more than a float's range
    return lifted
  return [s * g / total for s, g in zip(shares, lifted, strict=True)]


def build(steps: int, batch: int, length: int, *, reference: str, rate: float = 1.0, smoothing: float = 1e-3) -> DoReMi:
  """Domain reweighting by excess loss over a reference model.

  Args:
    reference: workdir or Hugging Face folder of a model trained on the domains alike, with the same tokenizer.
    rate: step size eta of the exponentiated update.
    smoothing: share c that is spread evenly at every step; the paper's 1e-3 (its code has 1e-4).

  Raises:
    ConfigError: a rate or share out of range.
  """
  if not rate > 0 or not 0 < smoothing <= 1:
    raise ConfigError("config.curriculum.rate", f"rate {rate:g}, smoothing {smoothing:g}",
                      accepted="a rate above 0, smoothing above 0 and at most 1")
  return DoReMi(batch, length, rate, smoothing, reference)
