"""The central types: what crosses the walls between rooms. See docs/design.md, section 3.

Shape suffixes: B batch, L length, D model width, F feed-forward width, H heads, K head width, G key-value heads,
V vocabulary, N layers, T tasks, E experts.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

Params = dict[str, jax.Array]  # {'blocks.attention.query.kernel': array}: flat, dotted, sorted
Batch = dict[str, Any]  # leaves (B, ...); an episode is {'support': Batch, 'query': Batch} with leaves (T, B, ...)
Knobs = Mapping[str, Any]  # scalars that change from step to step without a recompile
START = "the weights that the run starts from"  # as an objective's reference: no folder, a frozen copy
Key = jax.Array
Metrics = dict[str, "Mean"]


class Mean(NamedTuple):
  """A weighted mean that can still be added up: over micro-batches, hosts and evaluation batches."""

  total: jax.Array
  weight: jax.Array


class Losses(NamedTuple):
  """What an objective returns, before anyone weighs it.

  values: (B, L) per token or (B,) per example; weights: same shape, zero where there is no target;
  metrics: named `Mean`s; auxiliary: a scalar added per unit of weight (MoE balance), usually 0. about: what is known of
  each example beside its loss, put in by the train step for a weighting: 'domain' (B,) int, 'reference' as values;
  carry: the model's state after each row, where the batch brought one (core/carry.py).
  """

  values: jax.Array
  weights: jax.Array
  metrics: Metrics
  auxiliary: jax.Array | float = 0.0
  about: Mapping[str, jax.Array] | None = None
  carry: Any = None


class Loss(NamedTuple):
  """A loss as a sum and the weight to divide it by, so that accumulation divides once by the whole global batch."""

  total: jax.Array
  weight: jax.Array
  metrics: Metrics
  carry: Any = None  # as in Losses


LossFn = Callable[[Params, Batch, Key | None], tuple[jax.Array, Loss]]  # (loss.total, loss), for jax.grad
GradFn = Callable[[Params, Batch, Key], tuple[Loss, Params]]  # gradient of loss.total
Weighting = Callable[[Losses, Knobs], Loss]


@dataclasses.dataclass(frozen=True)
class Extra:
  """An array that a learner trains beside the network's own (a rate per weight): see `Model.with_extras`.

  shape; axes: logical axis names, as the parameter that it shadows has them; init: key -> array.
  """

  shape: tuple[int, ...]
  axes: tuple[str | None, ...]
  init: Callable[[Key], jax.Array]


class Learner(Protocol):
  """How a loss becomes a gradient. Supervised learning is one line; a meta-learner adapts before it differentiates.

  episodes: reads {'support': Batch, 'query': Batch} with leaves (T, B, ...), tasks by examples; second_order:
  differentiates through gradients; extras: what it trains beside the model.
  """

  @property
  def episodes(self) -> bool: ...

  @property
  def second_order(self) -> bool: ...

  @property
  def extras(self) -> Mapping[str, Extra]: ...

  def __call__(self, loss_fn: LossFn, step: Any) -> GradFn: ...


class Adapts(Protocol):
  """What a learner has if it can adapt to one task: the parameters after each of `steps` steps go through `each`."""

  inner_steps: int

  def adapt(self, loss_fn: LossFn, params: Params, support: Batch, key: Key | None, *, steps: int,
            each: Callable[[Params], Any]) -> Any: ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """All that an exact resume needs; the step is the only clock.

  step: int32 scalar; key: the run's random key (per-step keys are folded in); params: trained; frozen: not trained
  (LoRA base, teacher, reward model, masks); opt_state: optax; ema: averaged params or {}; guard: see training/guard.py;
  carry: the state of each row's text, where rows continue from step to step (core/carry.py), or {}. The same tree holds
  shapes or shardings where those are asked for, so the leaves are not typed.
  """

  step: Any
  key: Any
  params: dict[str, Any]
  frozen: dict[str, Any]
  opt_state: Any
  ema: dict[str, Any]
  guard: dict[str, Any]
  carry: dict[str, Any] = dataclasses.field(default_factory=dict)

  def replace(self, **changes: Any) -> "TrainState":
    return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True)
class Plan:
  """One step's orders from the curriculum to the data source. Shapes come from `batch` and `length` alone.

  batch: examples in the global batch; length: tokens per example; admit: admitted difficulty, 1 = all;
  mixture: weight of each domain, None = the source's own; knobs: scalars handed to the step, traced;
  window: rows are the first `length` tokens of windows of so many, None = windows of `length`.
  """

  batch: int
  length: int
  admit: float = 1.0
  mixture: Mapping[str, float] | None = None
  knobs: Mapping[str, float] = dataclasses.field(default_factory=dict)
  window: int | None = None


class Curriculum(Protocol):
  """A data scheduler: pure functions of (step, state) on the host. Inherit it for the defaults.

  adaptive: plans depend on observed metrics, so batches cannot be prepared far ahead. sets: the fields of Plan that it
  decides; the others it leaves as it found them, so that several compose. fields: what it needs in every batch beside
  the objective's fields, e.g. 'domain'. weighting: how much each loss counts, traced in the step; None: all alike.
  reference: the workdir or Hugging Face folder of a model whose losses the weighting sees; None: no such model.
  """

  adaptive: bool = False
  sets: tuple[str, ...] = ()
  fields: tuple[str, ...] = ()
  weighting: Weighting | None = None
  reference: str | None = None

  def init(self) -> Any:
    """The state before step 0: what JSON can hold; it is saved with every checkpoint."""
    return {}

  def plan(self, step: int, state: Any) -> Plan: ...

  def observe(self, state: Any, step: int, metrics: Mapping[str, float]) -> Any:
    """The state after the metrics of `step` are known; the same on every host."""
    return state

  def result(self, state: Any) -> Any:
    """What is worth keeping after the run, as JSON; None if nothing is."""
    return None

  def changes(self) -> list[int]:
    """Steps at which (batch, length) may change; step 0 is not among them."""
    return []

  def shapes(self) -> set[tuple[int, int]]:
    """Every (batch, length) that it ever asks for: each is one compilation."""
    plans = [self.plan(step, self.init()) for step in (0, *self.changes())]
    return {(p.batch, p.length) for p in plans}

  def for_domains(self, domains: tuple[str, ...]) -> "Curriculum":
    """The same curriculum when the data's domains are known.

    Raises:
      ConfigError: they do not fit.
    """
    return self


class DataSource(Protocol):
  """Serves batches as a pure function of (seed, step, plan): a resume needs only the step."""

  @property
  def fields(self) -> Mapping[str, str]: ...  # name -> meaning of every array that `take` returns

  @property
  def fingerprint(self) -> str: ...  # changes when the data, the tokenizer or the rules change

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch: ...


class Vocabulary(Protocol):
  """What an objective may know of the tokenizer. vocab_size: V; special: {role: id}; sentinels: ids that no text
  encodes to, from the vocabulary's top downwards; word_edges: (V, 2) bool, whether a word starts with the token, and
  whether one ends with it."""

  vocab_size: int
  special: dict[str, int]
  sentinels: tuple[int, ...]

  @property
  def word_edges(self) -> np.ndarray: ...


class Sampler(Protocol):
  """Writes completions of prompts while the train step is traced (inference/rollouts.py has it)."""

  def __call__(self, params: Params, prompts_NP: jax.Array, mask_NP: jax.Array, keys_N: Key, *, room: int,
               temperature: float, eos_ids: tuple[int, ...]) -> tuple[jax.Array, jax.Array]: ...


Score = Callable[[Params, jax.Array, jax.Array], jax.Array]
"""(params of the step, tokens (N, L), which of them are real (N, L)) -> what a reward model says of each text, (N,)."""


class Objective(Protocol):
  """What is learned. Knows `apply`, never the architecture; returns losses per target, never a scalar. Inherit it.

  fields: batch fields that it reads; needs: what the model must offer, in the words of core/offers.py. reference: the
  workdir or Hugging Face folder of a model that it learns from or compares with, whose arrays lie frozen beside the
  params; START: the model itself as the run starts; None: none. reference_knob: the knob that names it. judges: the
  same of models that score what it writes, see `Reward.models` in core/reward.py.
  codes_text: its loss is that of every token of the text, so that bits per byte can be said. carries: it hands the
  batch's 'carry' to the model and returns the state after it (core/carry.py). whole_batch: the loss of a row depends on
  the other rows of its batch, so that micro-batches would be another loss. remembers: it keeps arrays of its own from
  step to step, see `memory`.
  """

  fields: tuple[str, ...]
  needs: tuple[str, ...] = ()
  reference: str | None = None
  reference_knob: str = "reference"
  judges: tuple[str, ...] = ()
  codes_text: bool = False
  carries: bool = False
  whole_batch: bool = False
  remembers: bool = False

  def for_tokenizer(self, tokenizer: Vocabulary) -> "Objective":
    """The same objective when the text's vocabulary is known.

    Raises:
      ConfigError: it lacks an id that this objective writes into a batch.
    """
    return self

  def with_reference(self, apply: Callable) -> "Objective":
    """The same objective when its reference model is there. apply: as the model's own, without dropout, given the same
    params."""
    return self

  def with_judges(self, scores: Sequence[Score]) -> "Objective":
    """The same objective when its `judges` are there."""
    return self

  def with_sampler(self, sampler: Sampler) -> "Objective":
    """The same objective when it can have the trained model write completions."""
    return self

  def extras(self, model: Any) -> Mapping[str, Extra]:
    """What it trains beside a model (core/model.py): see `Model.with_extras`."""
    return {}

  def memory(self, batch: Batch) -> dict[str, Any]:
    """What it remembers before the first step, rows first: it comes in batch['carry'] and goes back in `Losses.carry`.
    batch: arrays or their shapes."""
    return {}

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses: ...
