"""Domains as the arms of a bandit: the curriculum that EXP3.S, ODM and teacher-student are rules of.

Each step draws `draws` domains from the policy pi (keyed by seed and step: every host draws the same) and serves
them in equal parts. A plan is made from metrics up to a fixed number of steps back, so the policy that drew goes along
with the plan, as the knobs 'policy/<domain>', and comes back with that step's metrics.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Curriculum, Knobs, Loss, Losses, Plan
from llm_jax.curriculum.weighing import by_domain, weighted

Policy = Sequence[float]
Seen = Mapping[int, tuple[float, float, float]]  # arm -> its mean loss, share of the targets, probability when drawn


class Rule(Protocol):
  """How a bandit learns: pure functions of a state that JSON can hold."""

  def init(self, count: int) -> dict[str, Any]:
    """The state of `count` arms before any is drawn."""

  def policy(self, state: Mapping[str, Any]) -> list[float]:
    """The probability of each arm."""

  def observe(self, state: Mapping[str, Any], step: int, seen: Seen) -> dict[str, Any]:
    """The state after a step; `seen` is empty if its numbers were not finite."""


@dataclasses.dataclass(frozen=True)
class Bandit(Curriculum):
  """Draws domains by a rule's policy, `draws` a step in equal parts of the batch."""

  batch: int
  length: int
  rule: Rule
  draws: int
  seed: int
  domains: tuple[str, ...] = ()
  adaptive: bool = True
  sets: tuple[str, ...] = ("mixture", "knobs")
  fields: tuple[str, ...] = ("domain",)

  def for_domains(self, domains: tuple[str, ...]) -> "Bandit":
    check(domains, self.batch, self.draws)
    return dataclasses.replace(self, domains=domains)

  def init(self) -> dict[str, Any]:
    return self.rule.init(len(self.domains))

  def plan(self, step: int, state: Mapping[str, Any]) -> Plan:
    if not self.domains:
      return Plan(self.batch, self.length)
    return plan(self.batch, self.length, self.domains, self.rule.policy(state), self.draws, self.seed, step)

  def weighting(self, losses: Losses, knobs: Knobs) -> Loss:
    return weighted(losses, 1.0, by_domain(losses, self.domains))

  def observe(self, state: Mapping[str, Any], step: int, metrics: Mapping[str, float]) -> dict[str, Any]:
    return self.rule.observe(state, step, seen(metrics, self.domains))


def draw(policy: Policy, draws: int, seed: int, step: int) -> list[int]:
  """How often each arm comes up in `draws` independent draws of a step."""
  counts = [0] * len(policy)
  for i in range(draws):
    place = uniform(f"{seed}/{step}/{i}")
    arm = next((k for k, edge in enumerate(running_sums(policy)) if place < edge), len(policy) - 1)
    counts[arm] += 1
  return counts


def uniform(key: str) -> float:
  """A number in [0, 1) that `key` names."""
  return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()[:7], "little") / 2**56


def running_sums(policy: Policy) -> list[float]:
  """The upper edge of each arm in [0, 1]."""
  total, edges = 0.0, []
  for p in policy:
    total += p
    edges.append(total)
  return edges


def plan(batch: int, length: int, domains: Sequence[str], policy: Policy, draws: int, seed: int, step: int) -> Plan:
  """The plan that serves this step's draws."""
  counts = draw(policy, draws, seed, step)
  return Plan(batch, length, mixture={d: c / draws for d, c in zip(domains, counts, strict=True)},
              knobs={f"policy/{d}": p for d, p in zip(domains, policy, strict=True)})


def seen(metrics: Mapping[str, float], domains: Sequence[str], name: str = "loss") -> Seen:
  """{arm: (its mean of that step, share of the targets, its probability when it was drawn)} of the arms that came up;
  nothing of a step whose numbers are not finite."""
  found = {}
  for i, d in enumerate(domains):
    share, part = metrics[f"share/{d}"], metrics[f"{name}_part/{d}"]
    if not (math.isfinite(part) and math.isfinite(share)):
      return {}
    if share > 0:
      found[i] = (part / share, share, metrics.get(f"policy/{d}", 1.0 / len(domains)))
  return found


def softmax(values: Sequence[float]) -> list[float]:
  """exp(values), normalised."""
  top = max(values)
  found = [math.exp(v - top) for v in values]
  total = sum(found)
  return [v / total for v in found]


def draws_of(draws: int | None, batch: int) -> int:
  """`draws`, or the default where it is None: 8, or the batch if that is no multiple of 8."""
  return draws or (8 if batch % 8 == 0 else batch)


def check(domains: tuple[str, ...], batch: int, draws: int) -> None:
  """Raises ConfigError for fewer than two domains, or draws that do not divide the batch."""
  if len(domains) < 2:
    raise ConfigError("config.curriculum", f"chooses among domains and the data have {len(domains)}",
                      accepted="data with at least two domains")
  if draws < 1 or batch % draws:
    raise ConfigError("config.curriculum.draws", f"{draws} draws do not divide a batch of {batch}",
                      accepted="a divisor of the batch")
