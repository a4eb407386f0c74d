"""What is asked of a run at launch, before anything compiles: do its parts fit each other, the data and the mesh?

Every check answers with the key, both numbers or the nearest name, and what would be accepted.
"""

import dataclasses
from collections.abc import Iterable

import jax
from absl import logging

from llm_jax.core.config import Config
from llm_jax.core.errors import ConfigError, DataError, unknown_name
from llm_jax.core.model import Model
from llm_jax.core.offers import OFFERS
from llm_jax.core.types import Curriculum, Learner, Objective
from llm_jax.data.corpus import Corpus
from llm_jax.data.windows import TrainSource
from llm_jax.optimizers import masks
from llm_jax.parallel import pipeline
from llm_jax.parallel.rules import ShardingRules
from llm_jax.run import Run
from llm_jax.training import settings


def reads_episodes(fields: Iterable[str]) -> bool:
  """Whether these fields are those of episodes: 'support.tokens', 'query.tokens'."""
  return any(f.startswith("support.") for f in fields)


def batch_axis(learner: Learner, objective: Objective) -> str:
  """What Plan.batch counts: rows, or tasks where whole batches are episodes."""
  episodic = learner.episodes and not getattr(learner, "mixes", False)
  return "tasks" if episodic or reads_episodes(objective.fields) else "batch"


def check_pair(model: Model, objective: Objective, names: tuple[str, str]) -> None:
  """The model must offer all that the objective needs; names: of the model's and the objective's plug-in.

  Raises:
    ConfigError: naming what the model lacks.
  """
  if missing := [need for need in objective.needs if need not in model.offers]:
    lacks = "; ".join(f"{need!r} ({OFFERS[need]})" for need in missing)
    offers = ", ".join(sorted(model.offers)) or "nothing"
    raise ConfigError("config.objective",
                      f"{names[1]!r} needs a model that offers {lacks}; {names[0]!r} offers {offers}",
                      accepted="a pair of the table of models and objectives in README.md")


def check_micro_batches(objective: Objective, accumulate: int) -> None:
  """Raises ConfigError if an update is made of micro-batches and the objective compares the rows of a batch."""
  if objective.whole_batch and accumulate > 1:
    raise ConfigError("config.train.accumulate", f"{accumulate} micro-batches, and the objective compares each row "
                      "with the others of its batch, which would be those of a micro-batch", accepted="1")


def carries(corpus: Corpus, model: Model, objective: Objective, curriculum: Curriculum, learner: Learner) -> bool:
  """Whether model and objective carry the state of rows that continue from step to step.

  Raises:
    ConfigError: rows continue, but batch or length change, or single steps adapt to tasks.
  """
  if not getattr(corpus.train, "continued", False):
    return False
  if len(curriculum.shapes()) > 1 or learner.episodes:
    raise ConfigError("config.data.packing", "rows of 'stream' continue those of the step before, which needs one "
                      "batch and length for all steps, and no episodes", accepted="another packing")
  return "carry" in model.offers and objective.carries


def check_memory(objective: Objective, curriculum: Curriculum, learner: Learner) -> None:
  """Raises ConfigError if an objective keeps rows from step to step and the rows are not always as many."""
  if objective.remembers and (len(curriculum.shapes()) > 1 or learner.episodes):
    raise ConfigError("config.objective.updates", "several steps on the same rollouts need one batch and length for "
                      "all steps, and no episodes", accepted="1")


def check_beside(model: Model, freeze: Iterable[str] | str) -> None:
  """Raises ConfigError if what an objective trains beside the model would be frozen with it."""
  frozen = masks.split(model.shapes, freeze)[1] if model.extras else {}
  if held := sorted(frozen.keys() & model.extras.keys()):
    raise ConfigError("config.peft", f"freezes {', '.join(held)}, which config.objective trains",
                      accepted="None, or an objective that trains the model's own parameters alone")


def check_classes(corpus: Corpus, model: Model, objective: Objective) -> None:
  """Raises ConfigError if the data have more labels than the network, or the objective, tells apart."""
  classes = getattr(corpus.train, "classes", 0)
  if "classes" in objective.needs:
    key, scores = "config.model.labels", getattr(model.config, "labels", 0)
  elif hasattr(objective, "ways"):
    key, scores = "config.objective.ways", objective.ways
  elif "labels" in objective.fields:
    key, scores = "config.model.outputs", getattr(model.config, "outputs", classes)
  else:
    return
  if classes > scores:
    raise ConfigError(key, f"{scores}, but the data have {classes} labels", accepted=f"{classes}")


def check_data(corpus: Corpus, objective: Objective, learner: Learner, curriculum: Curriculum, steps: int,
               rules: ShardingRules) -> None:
  """The data must serve what objective and learner read, in sizes that the mesh divides, and what the curriculum's
  knobs ask of them in a run of `steps`, at its ends and wherever batch or length change.

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
    if hasattr(learner, "check_support"):
      learner.check_support(jax.tree.leaves(batch["support"])[0].shape[1])
  for step in sorted({0, steps - 1, *(s + side for s in curriculum.changes() for side in (-1, 0))}):
    plan = curriculum.plan(step, curriculum.init())
    if plan.knobs:
      corpus.train.take(step, dataclasses.replace(plan, batch=1))


def check_enough(run: Run) -> None:
  """Takes a row of the first batch. For training alone: evaluation and a dry run serve data smaller than a batch.

  Raises:
    DataError: there are fewer examples than a batch has rows; names the data.
  """
  try:
    run.corpus.train.take(0, run.curriculum.plan(0, run.curriculum.init()), slice(0, 1))
  except DataError as e:
    what = run.corpus.description.partition("\n")[0]
    raise DataError(str(e) if what in str(e) else f"{e}\n  the data: {what}") from None


def check_batches(curriculum: Curriculum, train: settings.Train, rules: ShardingRules, axis: str = "batch") -> None:
  """Every planned batch must split into micro-batches and those over the devices, every row into its parts.

  Raises:
    ConfigError: with the numbers that do not divide.
  """
  what = "examples" if axis == "batch" else axis
  for batch, length in sorted(curriculum.shapes()):
    _check_divides("config.train.batch_size", batch, what, rules, axis, train.accumulate)
    if length % rules.ways("length"):
      raise ConfigError("config.mesh.context", f"rows of {length} tokens do not divide into {rules.ways('length')} "
                        "parts", accepted=f"a divisor of {length}")


def tell_short_domains(corpus: Corpus, shortest: int) -> None:
  """Logs which domains have not enough text for one row of the shortest kind, and so are not trained on."""
  source = corpus.train
  if not isinstance(source, TrainSource) or source.packing != "concat":  # other packings pad
    return
  for stream, count in zip(source.streams, source.windows(shortest).values()):
    if not count:
      logging.warning("domain %r is not trained on: its %d tokens make no row of %d", stream.domain, stream.size,
                      shortest)


def check_tasks_beside(corpus: Corpus, curriculum: Curriculum, train: settings.Train, rules: ShardingRules) -> None:
  """Data that serve tasks beside plain rows have a number of them of their own: both must split as batches do.

  Raises:
    ConfigError: with the numbers that do not divide.
  """
  fields = corpus.train.fields
  if not reads_episodes(fields) or all(f.startswith(("support.", "query.")) for f in fields):
    return
  check_batches(curriculum, train, rules)
  plan = curriculum.plan(0, curriculum.init())
  batch = corpus.train.take(0, dataclasses.replace(plan, batch=1))
  tasks = jax.tree.leaves(batch["support"])[0].shape[0]
  _check_divides("config.data.tasks", tasks, "tasks", rules, "tasks", train.accumulate)


def check_evaluation(config: Config, rules: ShardingRules) -> None:
  """Raises ConfigError if the devices do not divide the evaluation's own batch."""
  size = config["evaluation"]["batch_size"]
  if size is not None:
    _check_divides("config.evaluation.batch_size", size, "examples", rules, "batch", accumulate=1)


def _check_divides(key: str, count: int, what: str, rules: ShardingRules, axis: str, accumulate: int) -> None:
  """Raises ConfigError if so many rows of `axis` do not split over the devices and micro-batches."""
  plan, ways = pipeline.schedule(rules), rules.ways(axis)
  piped = 1 if plan is None else plan.microbatches
  over = {f"{ways} devices ({' x '.join(rules.over(axis))})": ways, f"{accumulate} micro-batches": accumulate,
          f"{piped} micro-batches of the pipeline": piped}
  parts = ways * accumulate * piped
  if count % parts:
    raise ConfigError(key, f"{count} {what} do not divide over {' x '.join(n for n, c in over.items() if c > 1)}",
                      accepted=f"a multiple of {parts}")


def check_watched(run: Run) -> None:
  """Raises ConfigError if a metric that decides something (best checkpoint, early stopping) is never measured. The best
  by eval/loss is the default, and asks for nothing where a run does not evaluate."""
  stopping = run.config["early_stopping"]
  best = run.config["checkpoint"]["best"] not in (None, "eval/loss")
  if run.config["evaluation"]["every"] == 0 and (best or stopping is not None):
    who = "config.checkpoint.best" if stopping is None else "config.early_stopping"
    raise ConfigError("config.evaluation.every", f"got 0, and {who} decides by what evaluations measure",
                      accepted=f"a whole number from 1, or {who}=None")
  watched = {"config.checkpoint.best": run.config["checkpoint"]["best"],
             "config.early_stopping.metric": None if stopping is None else stopping["metric"]}
  for key, name in watched.items():
    if name not in (None, "eval/loss") and name not in run.evaluation_names:
      raise unknown_name(key, name, sorted(run.evaluation_names), what="evaluation metric")


def check_mesh(model: Model, rules: ShardingRules) -> None:
  """Raises ConfigError if a parameter cannot be split as the mesh asks, or a host would read no rows of its own."""
  hosts, parts = min(jax.process_count(), rules.mesh.size), rules.host_parts  # of one device: an estimate
  if parts % hosts:
    raise ConfigError("config.mesh", f"{hosts} hosts share the rows of a batch, which the mesh cuts into {parts} parts "
                      "before it cuts layers or sequences", accepted=f"replica x data x fsdp a multiple of {hosts}")
  pipeline.schedule(rules)
  rules.for_params(model.logical_axes, model.shapes)


def check_tasks(learner: Learner, name: str, rules: ShardingRules) -> None:
  """Raises ConfigError if a learner that adapts to tasks meets a pipeline."""
  stages = rules.ways("layers")
  if learner.episodes and stages > 1:
    raise ConfigError("config.mesh.stage", f"{stages} stages, and config.meta_learning ({name}) has weights for each "
                      "task, which would have to go through the pipeline with it", accepted="1")


def check_traced(run: Run) -> None:
  """Traces the step where the mesh cuts layers or sequences, which is where a network may refuse.

  Raises:
    ConfigError: by the network, naming what it cannot do; or its layers never were a pipeline.
  """
  stages = run.rules.ways("layers")
  if stages == 1 and run.rules.ways("length") == 1:
    return
  with pipeline.watched() as found:
    _ = run.metric_names
  if stages > 1 and not found:
    raise ConfigError("config.mesh.stage", f"got {stages}, and this network has no stack of layers to cut",
                      accepted="1")
