"""The wiring diagram: from a config to the objects of a run, top to bottom.

    run = experiment.build(config)          # checks everything, compiles nothing, allocates nothing on the devices
    state = run.init_state()
    state, metrics = run.train_step(state, run.batch(0), {})

`SCHEMA` says which plug-in room or function every section of a config belongs to; llm_jax/training/session.py adds the
workdir (checkpoints, metrics, report) around it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax import scoring
from llm_jax.core import cache, plugins
from llm_jax.core.config import Config, Section, plain, resolve
from llm_jax.core.errors import ConfigError, unknown_name
from llm_jax.core.model import Model
from llm_jax.core.types import Batch, Curriculum, Learner, Loss, Objective, Plan, TrainState
from llm_jax.curriculum.composed import compose
from llm_jax.data import scorers
from llm_jax.data.corpus import Corpus, DataContext
from llm_jax.data.loader import Loader, rows_of_host
from llm_jax.evaluation import adaptation
from llm_jax.evaluation import loss as evaluation_loss
from llm_jax.meta_learning.context import Context as LearnerContext
from llm_jax.optimizers import chain, masks
from llm_jax.optimizers import ema as weight_average
from llm_jax.parallel import mesh as device_mesh
from llm_jax.parallel import tasks
from llm_jax.parallel.rules import ShardingRules, use
from llm_jax.peft.adapted import Method
from llm_jax.training import early_stopping, faults, guard, settings
from llm_jax.training import state as train_state
from llm_jax.training.step import knobs_of, make_eval_step, make_train_step, mean_weighting

TOKENIZER = Section("how text becomes tokens", room="data/tokenizers", optional=True)
SCHEMA: dict[str, Section] = {
    "model": Section("the network", room="models"),
    "peft": Section("fine-tuning of few parameters", room="peft", optional=True),
    "data": Section("the text", room="data", nested={"tokenizer": TOKENIZER}),
    "objective": Section("what is learned", room="objectives", default={"name": "causal_lm"}),
    "curriculum": Section("data scheduler, or a list of them", room="curriculum", default={"name": "none"}, many=True,
                          nested={"scorer": Section("difficulty of a row", room=scorers.ROOM)}),
    "meta_learning": Section("loss scheduler", room="meta_learning", default={"name": "none"}),
    "optimizer": Section("how parameters move", room="optimizers", shared=(chain.assemble,),
                         synonyms=chain.ELSEWHERE),
    "train": Section("length, batch and seed of the run", function=settings.train),
    "mesh": Section("how devices share the work", function=device_mesh.build, default={}),
    "evaluation": Section("held-out loss during the run", function=settings.evaluation, default={}),
    "adaptation": Section("how adaptation to held-out tasks is measured", function=adaptation.build, default={}),
    "checkpoint": Section("saving", function=settings.checkpoint, default={}),
    "log": Section("metrics", function=settings.log, default={}),
    "sample": Section("texts written during the run", function=settings.sample, default={}),
    "guard": Section("skipping bad updates", function=guard.build, default={}),
    "ema": Section("average of the weights", function=settings.ema, optional=True),
    "early_stopping": Section("stopping when a metric no longer improves", function=early_stopping.build,
                              optional=True),
}


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
  reference: scoring.Reference | None = None

  @functools.cached_property
  def abstract_state(self) -> TrainState:
    """Shapes and shardings of the state."""
    abstract = jax.eval_shape(self._make_state, jax.random.key(0))
    return train_state.with_shardings(abstract, train_state.shardings(abstract, self.rules, self.model.logical_axes,
                                                                      self.optimizer))

  @functools.cached_property
  def state_shardings(self) -> TrainState:
    """Where each array of the state lies."""
    return jax.tree.map(lambda a: a.sharding, self.abstract_state)

  @property
  def _make_state(self) -> Callable:
    return train_state.initializer(self.model.init, self.optimizer, self.guard, self.ema is not None)

  def init_state(self) -> TrainState:
    """The state at step 0, made sharded."""
    state = jax.jit(self._make_state, out_shardings=self.state_shardings)(jax.random.key(self.train.seed))
    return scoring.with_reference(state, self.reference)

  def state_from(self, params: Mapping[str, Any]) -> TrainState:
    """The state at step 0 that starts from given weights of `base` (--init_from)."""
    init_key, run_key = jax.random.split(jax.random.key(self.train.seed))
    def make(params: Any, key: Any) -> TrainState:
      whole = {**self.model.init(init_key), **params}  # what a PEFT method or a learner adds starts afresh
      return train_state.from_params(whole, key, self.optimizer, self.guard, self.ema is not None)
    params = {**params, **(self.reference.params() if self.reference else {})}
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
    batch = self.corpus.train.take(0, plan)
    with use(self.rules):
      _, metrics = jax.eval_shape(self.train_step, self.abstract_state, self._fields(batch), knobs_of(plan))
    return tuple(sorted(metrics))

  @functools.cached_property
  def compiled_step(self) -> Callable:
    """(state, batch, knobs) -> (state, vector of metrics): jitted, donating the state, laid out on the mesh."""
    names = self.metric_names
    def step(state: TrainState, batch: Batch, knobs: Mapping[str, Any]) -> tuple[TrainState, jax.Array]:
      with use(self.rules):
        state, metrics = self.train_step(state, batch, knobs)
      return state, jnp.stack([metrics[n] for n in names])
    return jax.jit(step, donate_argnums=0, in_shardings=(self.state_shardings, None, None),
                   out_shardings=(self.state_shardings, self.rules.replicated()))

  @functools.cached_property
  def compiled_eval_step(self) -> Callable:
    """(params, frozen, batch) -> {name: Mean}, jitted."""
    def step(params: Any, frozen: Any, batch: Batch) -> Any:
      with use(self.rules):
        return self.eval_step(params, frozen, batch)
    return jax.jit(step, out_shardings=self.rules.replicated())

  def put(self, rows: Mapping[str, np.ndarray]) -> Batch:
    """This host's rows of a global batch, onto the devices."""
    fields = self._fields(rows)
    if jax.process_count() == 1:  # one call for all arrays takes half the time of one for each
      return jax.device_put(fields, self.batch_shardings(fields))
    place = lambda a, sharding: jax.make_array_from_process_local_data(sharding, a)
    return jax.tree.map(place, fields, self.batch_shardings(fields))

  def _fields(self, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Without documents in a row, segments and positions say nothing: attention then needs no mask for them."""
    plain_stream = not getattr(self.corpus.train, "boundaries", True)
    dropped = {"segment_ids", "positions"} if plain_stream else set()
    return {name: a for name, a in batch.items() if name not in dropped}

  def batch(self, step: int) -> Batch:
    """The batch of a step, on the devices, under the plan of the curriculum's initial state."""
    plan = self.curriculum.plan(step, self.curriculum.init())
    return self.put(self.loader.take(step, plan))

  @functools.cached_property
  def loader(self) -> Loader:
    """This host's way to the training batches."""
    return Loader(self.corpus.train, host=jax.process_index(), hosts=jax.process_count(), workers=self.train.workers,
                  prefetch=self.train.prefetch)

  def batches(self, start: int, position: Any) -> Iterator[tuple[int, Plan, Batch]]:
    """(step, plan, batch on the devices) from `start` on; plans follow `position.curriculum` if it adapts."""
    if self.curriculum.adaptive:
      for step in range(start, self.train.steps):
        plan = self.curriculum.plan(step, position.curriculum)
        yield step, plan, self.put(self.loader.take(step, plan))
      return
    plan_of = functools.partial(self.curriculum.plan, state=position.curriculum)
    with self.loader.stream(plan_of, start=start, stop=self.train.steps) as stream:
      for step, plan, rows in stream:
        yield step, plan, self.put(rows)

  def evaluate(self, params: Any, frozen: Any, room: str = "eval") -> dict[str, float]:
    """{'eval/loss': ..., 'eval/loss/code': ...} over every evaluation set."""
    section = settings.evaluation(**self.config["evaluation"])
    plan = Plan(section.batch_size or self.train.batch_size, self.train.length)
    rows = rows_of_host(plan.batch, jax.process_index(), jax.process_count())
    found: dict[str, float] = {}
    for name, data in self.corpus.evals.items():
      values = evaluation_loss.evaluate(self.compiled_eval_step, params, frozen, data, self.put, plan, rows,
                                        section.batches)
      found |= {evaluation_name(room, metric, name): v for metric, v in values.items()}
    return found

  @functools.cached_property
  def evaluation_names(self) -> frozenset[str]:
    """Names of all numbers that an evaluation measures."""
    section = settings.evaluation(**self.config["evaluation"])
    plan = Plan(section.batch_size or self.train.batch_size, self.train.length)
    state, found = self.abstract_state, set()
    for name, data in self.corpus.evals.items():
      with use(self.rules):
        measured = jax.eval_shape(self.eval_step, state.params, state.frozen, self._fields(data.take(0, plan)))
      names = {*measured, *evaluation_loss.derived(0.0, data.bytes_per_token)}
      rooms = ("eval", "eval_ema") if self.ema else ("eval",)
      found |= {evaluation_name(room, n, name) for n in names for room in rooms}
    return frozenset(found)

  def bits_per_byte(self) -> float | None:
    """Factor from nats per training token to bits per byte of training text; None if the data are no text."""
    streams = [s for s in self.corpus.streams if s.split == "train"]
    if not streams:
      return None
    text_bytes = sum(s.text_bytes for s in streams)
    return sum(s.size for s in streams) / max(text_bytes, 1) / math.log(2)

  def identity(self) -> dict[str, Any]:
    """What a resume compares: the resolved config and the data's fingerprint."""
    return {**self.config, "fingerprint": self.corpus.fingerprint}


def evaluation_name(room: str, metric: str, evaluation_set: str) -> str:
  """'eval/loss' of the set 'validation', 'eval/loss/code' of 'validation/code'."""
  part = evaluation_set.partition("/")[2]
  return f"{room}/{metric}" + (f"/{part}" if part else "")


def build(config: Mapping[str, Any]) -> Run:
  """The run that a config describes.

  Args:
    config: a ConfigDict, a dict, or the resolved JSON of a workdir.

  Raises:
    ConfigError: anything that cannot be run, before data is read or a program compiled. DataError: unusable data.
  """
  resolved = resolve(plain(config), SCHEMA)
  faults.wanted()
  for name, section in SCHEMA.items():  # values that cannot be, in sections that are used later on too
    if section.function is not None and resolved[name] is not None:
      section.function(**resolved[name])
  train = settings.train(**resolved["train"])
  rules = ShardingRules(device_mesh.make(resolved["mesh"]))
  curriculum = make_curriculum(resolved["curriculum"], train)
  objective = plugins.bind("objectives", resolved["objective"], "config.objective")()
  make_base = plugins.bind("models", resolved["model"], "config.model")
  peft = None if resolved["peft"] is None else plugins.bind("peft", resolved["peft"], "config.peft")()
  make_model = lambda vocab_size, length: adapted(make_base(vocab_size, length), peft)
  trains = trained_section(resolved["optimizer"], peft)
  probe = make_model(256, train.length)  # refuses sizes that do not fit before any data is read
  check_mesh(probe, rules)
  make_learner = functools.partial(_learner, resolved, trains["freeze"])
  check_batches(curriculum, train, rules, batch_axis(make_learner(probe), objective))
  check_evaluation(resolved, rules)
  context = DataContext(train.seed, cache.folder("data"))
  corpus = plugins.bind("data", resolved["data"], "config.data")(context)
  curriculum = curriculum.for_domains(getattr(corpus.train, "domains", ()))
  corpus = scoring.equip(corpus, curriculum, train.seed, context.cache_dir)
  model = make_model(corpus.vocab_size, train.length)
  learner = make_learner(model)
  check_data(corpus, objective, learner, curriculum, rules)
  reference = scoring.reference_of(curriculum, corpus)
  model = model.with_extras(learner.extras).with_extras(scoring.as_extras(reference))
  optimizer = chain.build_optimizer(scoring.freezing(trains, reference), model.shapes, train.steps,
                                    axes=model.logical_axes)
  watch = guard.build(**resolved["guard"])
  ema = None if resolved["ema"] is None else settings.ema(**resolved["ema"])
  average = None if ema is None else functools.partial(_average, ema)
  step = make_train_step(model.apply, objective, learner, optimizer.transform, schedule=optimizer.schedule, guard=watch,
                         weighting=curriculum.weighting or mean_weighting,
                         about=scoring.about(curriculum, objective, reference), accumulate=train.accumulate,
                         ema=average)
  run = Run(resolved, train, corpus, model, objective, curriculum, optimizer, watch, ema, rules, step,
            _eval_step(resolved, corpus, model, objective, learner), make_base(corpus.vocab_size, train.length),
            reference)
  check_watched(run)
  return run


def _average(ema: settings.Ema, average: Any, params: Any, step: jax.Array) -> Any:
  return weight_average.update(average, params, ema.decay, step, ema.start)


def make_curriculum(spec: Any, train: settings.Train) -> Curriculum:
  """The curriculum of a resolved section: one, or a list that composes."""
  specs = spec if isinstance(spec, list) else [spec]
  keys = [f"config.curriculum[{i}]" if isinstance(spec, list) else "config.curriculum" for i in range(len(specs))]
  return compose([plugins.bind("curriculum", s, key)(train.steps, train.batch_size, train.length)
                  for s, key in zip(specs, keys, strict=True)], train.batch_size, train.length)


def adapted(model: Model, peft: Method | None) -> Model:
  """The model that a PEFT method makes of this one."""
  return model if peft is None else peft.adapt(model)


def trained_section(section: Config, peft: Method | None) -> Config:
  """The optimizer's section with what a PEFT method leaves alone among what is not trained."""
  frozen = section["freeze"]
  return section if peft is None else {**section, "freeze": [*([frozen] if isinstance(frozen, str) else frozen),
                                                             peft.freeze]}


def _learner(config: Config, freeze: Any, model: Model) -> Learner:
  """The learner for the parameters of `model` that are trained.

  Raises:
    ConfigError: second derivatives of an attention that has only first ones.
  """
  trained, _ = masks.split(model.shapes, freeze)
  axes = {n: model.logical_axes[n] for n in trained}
  make = plugins.bind("meta_learning", config["meta_learning"], "config.meta_learning")
  place = functools.partial(tasks.like_parameters, axes)
  learner: Learner = make(LearnerContext(trained, axes, tasks.map_tasks, place))
  kernel = config["model"].get("attention", "auto")
  if learner.second_order and kernel not in ("auto", "xla"):
    raise ConfigError("config.model.attention", f"{kernel!r} has first derivatives only, and config.meta_learning "
                      f"({config['meta_learning']['name']}) needs second ones", accepted="'auto' or 'xla', or order=1")
  return learner


def _eval_step(config: Config, corpus: Corpus, model: Model, objective: Objective, learner: Learner) -> Callable:
  """(params, frozen, batch) -> {name: Mean}: the loss of plain rows; of an episode, the curve of its adaptation."""
  plain_step = make_eval_step(model.apply, objective)
  if not any(reads_episodes(data.fields) for data in corpus.evals.values()) or reads_episodes(objective.fields):
    return plain_step
  section = adaptation.build(**config["adaptation"])
  rule, steps = adaptation.rule(section, learner), getattr(learner, "inner_steps", 0)
  def step(params: Any, frozen: Any, batch: Batch) -> Any:
    if "support" not in batch:
      return plain_step(params, frozen, batch)
    def loss_fn(params: Any, batch: Batch, key: Any) -> tuple[jax.Array, Loss]:
      loss = mean_weighting(objective(model.apply, {**frozen, **params}, batch, key, {}), {})
      return loss.total, loss
    return adaptation.curve(section, rule, steps, tasks.map_tasks, loss_fn, params, batch)
  return step


def reads_episodes(fields: Iterable[str]) -> bool:
  """Whether these fields are those of episodes: 'support.tokens', 'query.tokens'."""
  return any(f.startswith("support.") for f in fields)


def batch_axis(learner: Learner, objective: Objective) -> str:
  """What Plan.batch counts: rows, or tasks where whole batches are episodes."""
  episodic = learner.episodes and not getattr(learner, "mixes", False)
  return "tasks" if episodic or reads_episodes(objective.fields) else "batch"


def check_data(corpus: Corpus, objective: Objective, learner: Learner, curriculum: Curriculum,
               rules: ShardingRules) -> None:
  """The data must serve what objective and learner read, in sizes that the mesh divides.

  Raises:
    ConfigError: naming what is missing, or the two numbers.
  """
  served = set(corpus.train.fields)
  wanted = {f"{part}.{f}" for part in ("support", "query") for f in objective.fields} if learner.episodes else set(
      objective.fields)
  if learner.episodes and not reads_episodes(served):
    raise ConfigError("config.meta_learning", "this learner adapts to episodes of a support and a query set, and the "
                      "data serve single examples", accepted="'none', or data that serve episodes")
  wanted |= set(objective.fields) if getattr(learner, "mixes", False) else set()
  if missing := wanted - served:
    raise ConfigError("config.objective", f"reads {', '.join(sorted(missing))}, which the data do not serve",
                      accepted=f"an objective over {', '.join(sorted(served))}")
  if learner.episodes:
    batch = corpus.train.take(0, curriculum.plan(0, curriculum.init()))
    for part in ("support", "query"):
      rules.sharding(("tasks", "examples"), jax.tree.leaves(batch[part])[0].shape, f"the {part} set")


def check_batches(curriculum: Curriculum, train: settings.Train, rules: ShardingRules, axis: str = "batch") -> None:
  """Every planned batch must split into micro-batches and those over the devices.

  Raises:
    ConfigError: with the numbers that do not divide.
  """
  axes = rules.table[axis]
  names = (axes,) if isinstance(axes, str) else axes or ()
  ways = math.prod(rules.mesh.shape[a] for a in names)
  what = "examples" if axis == "batch" else axis
  for batch, _ in sorted(curriculum.shapes()):
    if batch % (ways * train.accumulate):
      micro = f" x {train.accumulate} micro-batches" if train.accumulate > 1 else ""
      raise ConfigError("config.train.batch_size", f"{batch} {what} do not divide over {ways} devices "
                        f"({' x '.join(names)}){micro}", accepted=f"a multiple of {ways * train.accumulate}")


def check_evaluation(config: Config, rules: ShardingRules) -> None:
  """Raises ConfigError if the devices do not divide the evaluation's own batch."""
  size = config["evaluation"]["batch_size"]
  if size is not None:
    ways = math.prod(rules.mesh.shape[a] for a in rules.table["batch"] or ())
    if size % ways:
      raise ConfigError("config.evaluation.batch_size", f"{size} examples do not divide over {ways} devices "
                        "(data x fsdp)", accepted=f"a multiple of {ways}")


def check_watched(run: Run) -> None:
  """Raises ConfigError if a metric that decides something (best checkpoint, early stopping) is never measured."""
  stopping = run.config["early_stopping"]
  watched = {"config.checkpoint.best": run.config["checkpoint"]["best"],
             "config.early_stopping.metric": None if stopping is None else stopping["metric"]}
  for key, name in watched.items():
    if name not in (None, "eval/loss") and name not in run.evaluation_names:
      raise unknown_name(key, name, sorted(run.evaluation_names), what="evaluation metric")


def check_mesh(model: Model, rules: ShardingRules) -> None:
  """Raises ConfigError if a parameter cannot be split as the mesh asks."""
  rules.for_params(model.logical_axes, model.shapes)
