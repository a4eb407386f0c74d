"""One run: the objects that a config describes, and what can be asked of them before and while it trains.

`experiment.build` makes it. Nothing here decides anything: state and batches are shaped and placed, the pure step is
jitted for the mesh, held-out sets are evaluated.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax import frozen_models
from llm_jax.core import carry, devices
from llm_jax.core.config import Config
from llm_jax.core.model import Model
from llm_jax.core.types import Batch, Curriculum, Objective, Plan, TrainState
from llm_jax.data.ahead import Ahead
from llm_jax.data.corpus import Corpus
from llm_jax.data.loader import Loader, rows_of_host
from llm_jax.evaluation import loss as evaluation_loss
from llm_jax.optimizers import chain
from llm_jax.parallel import compiler
from llm_jax.parallel.rules import ShardingRules, use
from llm_jax.training import guard, settings
from llm_jax.training import state as train_state
from llm_jax.training.step import knobs_of


@dataclasses.dataclass(frozen=True)
class Run:
  """The objects of one run. Arrays exist only after `init_state`."""

  config: Config  # resolved: every knob
  train: settings.Train
  corpus: Corpus
  model: Model
  objective: Objective
  curriculum: Curriculum
  optimizer: chain.Optimizer
  guard: guard.Guard
  ema: settings.Ema | None
  rules: ShardingRules
  train_step: Callable  # pure, unjitted: (state, batch, knobs) -> (state, metrics)
  eval_step: Callable  # pure, unjitted: (params, frozen, batch) -> {name: Mean}
  base: Model  # before a PEFT method or a learner adds to it
  beside: tuple[frozen_models.FrozenModel, ...] = ()  # whose arrays lie in the state's `frozen`
  adapts: bool = False  # held-out tasks can be adapted to by gradient
  carries: bool = False  # rows continue from step to step, and the model carries their state

  @functools.cached_property
  def abstract_state(self) -> TrainState:
    """Shapes and shardings of the state."""
    abstract = jax.eval_shape(self._make_state, jax.random.key(0))
    places = train_state.shardings(abstract, self.rules, self.model.logical_axes, self.optimizer,
                                   self.train.split_state)
    return train_state.with_shardings(abstract, places)

  @functools.cached_property
  def state_shardings(self) -> TrainState:
    """Where each array of the state lies."""
    return jax.tree.map(lambda a: a.sharding, self.abstract_state)

  @property
  def _make_state(self) -> Callable:
    init = lambda key: frozen_models.started(self.model.init(key), self.beside)
    return train_state.initializer(init, self.optimizer, self.guard, self.ema is not None,
                                   self._carry)

  def _carry(self, batch: int | None = None) -> dict[str, Any]:
    """The state that rows carry before their first token, or what the objective remembers; {} if there is none."""
    if self.objective.remembers:
      return self.objective.memory(self.abstract_batch(self.curriculum.plan(0, self.curriculum.init())))
    if not self.carries:
      return {}
    plan = self.curriculum.plan(0, self.curriculum.init())  # all steps have one shape, see launch_checks.carries
    return carry.start(self.model, batch or plan.batch, plan.length)

  def init_state(self) -> TrainState:
    """The state at step 0, made sharded."""
    state = jax.jit(self._make_state, out_shardings=self.state_shardings)(jax.random.key(self.train.seed))
    return frozen_models.in_place(state, self.beside)

  def state_from(self, params: Mapping[str, Any]) -> TrainState:
    """The state at step 0 that starts from given weights of `base` (--init_from)."""
    init_key, run_key = jax.random.split(jax.random.key(self.train.seed))
    def make(params: Any, key: Any) -> TrainState:
      whole = {**self.model.init(init_key), **params}  # what a PEFT method or a learner adds starts afresh
      if self.model.made_of is not None:
        whole = self.model.made_of[0].start(whole)
      whole = frozen_models.started(whole, self.beside)
      return train_state.from_params(whole, key, self.optimizer, self.guard, self.ema is not None, self._carry())
    params = {**params, **frozen_models.given(self.beside)}
    params = {name: np.asarray(a) for name, a in params.items()}  # whole on every process
    return jax.jit(make, out_shardings=self.state_shardings)(params, run_key)

  def batch_shardings(self, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Rows over the data and fsdp axes; in an episode tasks over data, the examples of each over fsdp."""
    rows, examples = self.rules.sharding(("batch",)), self.rules.sharding(("tasks", "examples"))
    return {name: jax.tree.map(lambda _: examples, part) if isinstance(part, Mapping) else rows
            for name, part in batch.items()}

  @functools.cached_property
  def metric_names(self) -> tuple[str, ...]:
    """Names of the train step's metrics, in the order of `compiled_step`'s vector."""
    plan = self.curriculum.plan(0, self.curriculum.init())
    with use(self.rules):
      _, metrics = jax.eval_shape(self._step, self.abstract_state, self.abstract_batch(plan), knobs_of(plan))
    return tuple(sorted(metrics))

  def _step(self, state: TrainState, batch: Batch, knobs: Mapping[str, Any]) -> tuple[TrainState, Any]:
    return self.train_step(train_state.on_devices(state, self.state_shardings), batch, knobs)

  @functools.cached_property
  def compiled_step(self) -> Any:
    """(state, batch, knobs) -> (state, vector of metrics): jitted, donating the state, laid out on the mesh."""
    names = self.metric_names
    def step(state: TrainState, batch: Batch, knobs: Mapping[str, Any]) -> tuple[TrainState, jax.Array]:
      with use(self.rules), devices.made_for(self.rules.mesh.size):
        state, metrics = self._step(state, batch, knobs)
      return state, jnp.stack([metrics[n] for n in names])
    return jax.jit(step, donate_argnums=0, in_shardings=(self.state_shardings, None, None),
                   out_shardings=(self.state_shardings, self.rules.replicated()),
                   compiler_options=compiler.options(self.rules.mesh))

  @functools.cached_property
  def compiled_eval_step(self) -> Callable:
    """(params, frozen, batch) -> {name: Mean}, jitted."""
    def step(params: Any, frozen: Any, batch: Batch) -> Any:
      with use(self.rules):
        return self.eval_step(params, frozen, batch)
    return jax.jit(step, out_shardings=self.rules.replicated(), compiler_options=compiler.options(self.rules.mesh))

  def put(self, rows: Mapping[str, np.ndarray]) -> Batch:
    """This host's rows of a global batch, onto the devices."""
    fields = self.fields(rows)
    if jax.process_count() == 1:  # one call for all arrays takes half the time of one for each
      return jax.device_put(fields, self.batch_shardings(fields))
    place = lambda a, sharding: jax.make_array_from_process_local_data(sharding, a)
    return jax.tree.map(place, fields, self.batch_shardings(fields))

  def fields(self, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Without documents in a row, segments and positions say nothing: attention then needs no mask for them. Padding
    behind the text says something only to a model that sees later tokens."""
    source = self.corpus.train
    told = getattr(source, "padded", False) and "causal" not in self.model.offers
    if told or getattr(source, "boundaries", True):
      return dict(batch)
    return {name: self.fields(a) if isinstance(a, Mapping) else a for name, a in batch.items()
            if name not in ("segment_ids", "positions")}

  def lowered(self) -> Any:
    """The compiled step's program before compilation, from shapes alone: what a dry run or a plan compiles."""
    plan = self.curriculum.plan(0, self.curriculum.init())
    knobs = {n: jax.ShapeDtypeStruct((), np.float32) for n in plan.knobs}
    return self.compiled_step.lower(self.abstract_state, self.abstract_batch(plan), knobs)

  def abstract_batch(self, plan: Plan) -> dict[str, Any]:
    """Shapes and shardings of a plan's batch; one row is read, so that the data may be smaller than a batch. What comes
    in another number than the rows (tasks beside text) keeps its own."""
    rows = self.fields(self.corpus.train.take(0, dataclasses.replace(plan, batch=1)))
    count = lambda a: plan.batch if a.shape[0] == 1 else a.shape[0]
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct((count(a), *a.shape[1:]), a.dtype, sharding=s), rows,
                        self.batch_shardings(rows))

  def batch(self, step: int) -> Batch:
    """The batch of a step, on the devices, under the plan of the curriculum's initial state."""
    plan = self.curriculum.plan(step, self.curriculum.init())
    return self.put(self.loader.take(step, plan))

  @functools.cached_property
  def loader(self) -> Loader:
    """This host's way to the training batches."""
    return Loader(self.corpus.train, host=jax.process_index(), hosts=jax.process_count(), workers=self.train.workers,
                  prefetch=self.train.prefetch)

  def batches(self, start: int, position: Any) -> Ahead[tuple[int, Plan, Batch]]:
    """(step, plan, batch on the devices) from `start` on; plans follow `position.curriculum` if it adapts, and can be
    prepared if it does not."""
    adaptive = self.curriculum.adaptive
    return Ahead((self._adapting if adaptive else self._planned)(start, position), early=not adaptive)

  def _adapting(self, start: int, position: Any) -> Generator[tuple[int, Plan, Batch], None, None]:
    for step in range(start, self.train.steps):
      plan = self.curriculum.plan(step, position.curriculum)
      yield step, plan, self.put(self.loader.take(step, plan))

  def _planned(self, start: int, position: Any) -> Generator[tuple[int, Plan, Batch], None, None]:
    plan_of = functools.partial(self.curriculum.plan, state=position.curriculum)
    with self.loader.stream(plan_of, start=start, stop=self.train.steps) as stream:
      for step, plan, rows in stream:
        yield step, plan, self.put(rows)

  def evaluate(self, params: Any, frozen: Any, room: str = "eval") -> dict[str, float]:
    """{'eval/loss': ..., 'eval/loss/code': ...} over every evaluation set."""
    found: dict[str, float] = {}
    for name, data in self.corpus.evals.items():
      found |= {evaluation_name(room, metric, name): v for metric, v in self.measure(data, params, frozen).items()}
    return found

  def measure(self, data: Any, params: Any, frozen: Any) -> dict[str, float]:
    """{'loss': ...} over one evaluation set."""
    section = settings.evaluation(**self.config["evaluation"])
    plan = Plan(section.batch_size or self.train.batch_size, self.train.length)
    rows = rows_of_host(plan.batch, jax.process_index(), jax.process_count())
    return evaluation_loss.evaluate(self.compiled_eval_step, params, frozen, data, self.put, plan, rows,
                                    section.batches, codes_text=self.objective.codes_text,
                                    carry=self._eval_carry(plan.batch))

  def _eval_carry(self, batch: int) -> Any:
    if not self.carries:
      return None
    return jax.jit(lambda: self._carry(batch), out_shardings=self.rules.sharding(("batch",)))()

  @functools.cached_property
  def evaluation_names(self) -> frozenset[str]:
    """Names of all numbers that an evaluation measures."""
    section = settings.evaluation(**self.config["evaluation"])
    plan = Plan(section.batch_size or self.train.batch_size, self.train.length)
    state, found = self.abstract_state, set()
    for name, data in self.corpus.evals.items():
      with use(self.rules):
        measured = jax.eval_shape(self.eval_step, state.params, state.frozen, self.fields(data.take(0, plan)))
      names = {*measured, *evaluation_loss.derived(0.0, data.bytes_per_token, self.objective.codes_text)}
      rooms = ("eval", "eval_ema") if self.ema else ("eval",)
      found |= {evaluation_name(room, n, name) for n in names for room in rooms}
    return frozenset(found)

  def bits_per_byte(self) -> float | None:
    """Factor from nats per training token to bits per byte of training text; None if the data are no text, or
    the objective does not score all of it."""
    per_token = self.corpus.bytes_per_token
    return 1 / per_token / math.log(2) if per_token and self.objective.codes_text else None

  def identity(self) -> dict[str, Any]:
    """What a resume compares: the resolved config and the data's fingerprint."""
    return {**self.config, "fingerprint": self.corpus.fingerprint}


def evaluation_name(room: str, metric: str, evaluation_set: str) -> str:
  """'eval/loss' of the set 'validation', 'eval/loss/code' of 'validation/code'."""
  part = evaluation_set.partition("/")[2]
  return f"{room}/{metric}" + (f"/{part}" if part else "")
