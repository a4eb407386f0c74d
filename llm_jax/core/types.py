"""The central types: what crosses the walls between rooms. See docs/design.md, section 3.

Shape suffixes: B batch, L length, D model width, F feed-forward width, H heads, K head width, G key-value heads,
V vocabulary, N layers, T tasks, E experts.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax

Params = dict[str, jax.Array]  # {'blocks.attention.query.kernel': array}: flat, dotted, sorted
Batch = dict[str, Any]  # leaves (B, ...); an episode is {'support': Batch, 'query': Batch} with leaves (T, B, ...)
Knobs = Mapping[str, Any]  # scalars that change from step to step without a recompile
Key = jax.Array
Metrics = dict[str, "Mean"]


class Mean(NamedTuple):
  """A weighted mean that can still be added up: over micro-batches, hosts and evaluation batches."""

  total: jax.Array
  weight: jax.Array


class Losses(NamedTuple):
  """What an objective returns, before anyone weighs it.

  values: (B, L) per token or (B,) per example; weights: same shape, zero where there is no target;
  metrics: named `Mean`s; auxiliary: a scalar added per unit of weight (MoE balance), usually 0.
  """

  values: jax.Array
  weights: jax.Array
  metrics: Metrics
  auxiliary: jax.Array | float = 0.0


class Loss(NamedTuple):
  """A loss as a sum and the weight to divide it by, so that accumulation divides once by the whole global batch."""

  total: jax.Array
  weight: jax.Array
  metrics: Metrics


LossFn = Callable[[Params, Batch, Key], tuple[jax.Array, Loss]]  # (loss.total, loss): shaped for jax.grad(has_aux=True)
GradFn = Callable[[Params, Batch, Key], tuple[Loss, Params]]  # gradient of loss.total
Learner = Callable[[LossFn], GradFn]
Weighting = Callable[[Losses, Knobs], Loss]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """All that an exact resume needs; the step is the only clock.

  step: int32 scalar; key: the run's random key (per-step keys are folded in); params: trained; frozen: not trained
  (LoRA base, teacher, masks); opt_state: optax; ema: averaged params or {}; guard: see training/guard.py.
  """

  step: jax.Array
  key: jax.Array
  params: Params
  frozen: Params
  opt_state: Any
  ema: Params
  guard: dict[str, jax.Array]

  def replace(self, **changes: Any) -> "TrainState":
    return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True)
class Plan:
  """One step's orders from the curriculum to the data source. Shapes come from `batch` and `length` alone.

  batch: examples in the global batch; length: tokens per example; admit: admitted difficulty, 1 = all;
  mixture: weight of each domain, None = the source's own; knobs: scalars handed to the step, traced.
  """

  batch: int
  length: int
  admit: float = 1.0
  mixture: Mapping[str, float] | None = None
  knobs: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Curriculum(Protocol):
  """A data scheduler: pure functions of (step, state) on the host."""

  adaptive: bool  # True: plans depend on observed metrics, so batches cannot be prepared far ahead

  def init(self) -> Any: ...
  def plan(self, step: int, state: Any) -> Plan: ...
  def observe(self, state: Any, step: int, metrics: Mapping[str, float]) -> Any: ...
  def shapes(self) -> set[tuple[int, int]]: ...


class DataSource(Protocol):
  """Serves batches as a pure function of (seed, step, plan): a resume needs only the step."""

  fields: Mapping[str, str]  # name -> meaning of every array that `take` returns
  fingerprint: str  # changes when the data, the tokenizer or the rules change

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch: ...


class Objective(Protocol):
  """What is learned. Knows `apply`, never the architecture; returns losses per target, never a scalar."""

  fields: tuple[str, ...]  # batch fields that it reads

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses: ...
