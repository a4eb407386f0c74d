"""The wiring diagram: from a config to the objects of a run, top to bottom.

    run = experiment.build(config)          # checks everything, compiles nothing, allocates nothing on the devices
    state = run.init_state()
    state, metrics = run.train_step(state, run.batch(0), {})

`SCHEMA` says which plug-in room or function every section of a config belongs to; llm_jax/training/session.py adds the
workdir (checkpoints, metrics, report) around it.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from llm_jax import few_shot, frozen_models, launch_checks, launch_knobs, scoring
from llm_jax.core import cache, plugins
from llm_jax.core.config import Config, Section, plain, resolve
from llm_jax.core.errors import ConfigError
from llm_jax.core.model import Model
from llm_jax.core.types import Curriculum, Learner
from llm_jax.curriculum.composed import compose
from llm_jax.data import scorers
from llm_jax.data.corpus import DataContext
from llm_jax.evaluation import adaptation
from llm_jax.inference import rollouts
from llm_jax.meta_learning.context import Context as LearnerContext
from llm_jax.objectives import mix, rewards
from llm_jax.optimizers import chain, masks
from llm_jax.optimizers import ema as weight_average
from llm_jax.parallel import mesh as device_mesh
from llm_jax.parallel import rules as sharding
from llm_jax.parallel import tasks
from llm_jax.peft.adapted import Method
from llm_jax.run import Run
from llm_jax.training import early_stopping, faults, guard, settings
from llm_jax.training.step import make_train_step, mean_weighting

TOKENIZER = Section("how text becomes tokens", room="data/tokenizers", optional=True)
SCHEMA: dict[str, Section] = {
    "model": Section("the network", room="models"),
    "peft": Section("fine-tuning of few parameters", room="peft", optional=True),
    "data": Section("the text", room="data", nested={"tokenizer": TOKENIZER}),
    "objective": Section("what is learned", room="objectives", default={"name": "causal_lm"}, nested={
        "parts": Section("objectives of a mix", room="objectives", many=True, shared=(mix.share,)),
        "reward": Section("what a completion is worth, or a list of such", room="rewards", many=True,
                          shared=(rewards.share,))}),
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


def build(config: Mapping[str, Any], *, devices: Sequence[Any] | None = None, vocab_size: int | None = None) -> Run:
  """The run that a config describes.

  Args:
    config: a ConfigDict, a dict, or the resolved JSON of a workdir.
    devices: to lay the run out on, if not on all that are here; descriptions of absent ones do for a plan.
    vocab_size: of the model, for a plan whose tokenizer is not made; None takes the data's.

  Raises:
    ConfigError: anything that cannot be run, before data is read or a program compiled. DataError: unusable data.
  """
  resolved = resolve(plain(config), SCHEMA)
  faults.wanted()
  for name, section in SCHEMA.items():  # values that cannot be, in sections that are used later on too
    if section.function is not None and resolved[name] is not None:
      section.function(**resolved[name])
  train = settings.train(**resolved["train"])
  rules = sharding.from_options(device_mesh.build(**resolved["mesh"]), devices)
  curriculum = make_curriculum(resolved["curriculum"], train)
  objective = plugins.bind("objectives", resolved["objective"], "config.objective")()
  make_base = plugins.bind("models", resolved["model"], "config.model")
  peft = None if resolved["peft"] is None else plugins.bind("peft", resolved["peft"], "config.peft")()
  make_model = lambda vocab_size, length: adapted(make_base(vocab_size, length), peft)
  trains = trained_section(resolved["optimizer"], peft)
  probe = make_model(256, train.length)  # refuses sizes that do not fit before any data is read
  launch_checks.check_pair(probe, objective, (resolved["model"]["name"], resolved["objective"]["name"]))
  launch_checks.check_micro_batches(objective, train.accumulate)
  launch_checks.check_mesh(probe, rules)
  make_learner = functools.partial(_learner, resolved, trains["freeze"])
  launch_checks.check_batches(curriculum, train, rules, launch_checks.batch_axis(make_learner(probe), objective))
  launch_checks.check_evaluation(resolved, rules)
  context = DataContext(train.seed, cache.folder("data"))
  corpus = plugins.bind("data", resolved["data"], "config.data")(context)
  curriculum = curriculum.for_domains(getattr(corpus.train, "domains", ()))
  launch_checks.tell_short_domains(corpus, min(scoring.lengths_of(curriculum)))
  corpus = scoring.equip(corpus, curriculum, train.seed, context.cache_dir)
  vocab_size = corpus.vocab_size if vocab_size is None else vocab_size
  model = make_model(vocab_size, train.length)
  model = model.with_extras(objective.extras(model))
  launch_checks.check_beside(model, trains["freeze"])
  learner = make_learner(model)
  launch_checks.check_tasks(learner, resolved["meta_learning"]["name"], rules)
  launch_checks.check_classes(corpus, model, objective)
  launch_checks.check_tasks_beside(corpus, curriculum, train, rules)
  launch_checks.check_data(corpus, objective, learner, curriculum, train.steps, rules)
  launch_checks.check_memory(objective, curriculum, learner)
  if corpus.tokenizer is not None:
    objective = objective.for_tokenizer(corpus.tokenizer)
  reference = frozen_models.reference_of(curriculum, objective, corpus, model,
                                         masks.split(model.shapes, trains["freeze"])[0])
  if reference is not None:
    objective = objective.with_reference(reference.apply)
  judges = frozen_models.judges_of(objective, corpus, train.length)
  objective = objective.with_judges([judge.score for judge in judges])
  beside = (*filter(None, (reference,)), *judges)
  model = model.with_extras(learner.extras).with_extras(frozen_models.as_extras(beside))
  objective = objective.with_sampler(rollouts.Sampler(model))
  optimizer = chain.build_optimizer(frozen_models.freezing(trains, beside), model.shapes, train.steps,
                                    axes=model.logical_axes)
  optimizer = updated(optimizer, peft, train.steps)
  watch = guard.build(**resolved["guard"])
  ema = None if resolved["ema"] is None else settings.ema(**resolved["ema"])
  average = None if ema is None else functools.partial(_average, ema)
  pin = functools.partial(tasks.like_parameters, model.logical_axes) if train.split_state else None
  step = make_train_step(model.apply, objective, learner, optimizer.transform, schedule=optimizer.schedule, guard=watch,
                         weighting=curriculum.weighting or mean_weighting,
                         about=scoring.about(curriculum, objective, reference), accumulate=train.accumulate,
                         ema=average, pin=pin)
  run = Run(resolved, train, corpus, model, objective, curriculum, optimizer, watch, ema, rules, step,
            few_shot.eval_step(resolved["adaptation"], corpus, model.apply, objective, learner),
            make_base(vocab_size, train.length), beside, few_shot.adapts(resolved["adaptation"], learner),
            launch_checks.carries(corpus, model, objective, curriculum, learner))
  launch_checks.check_watched(run)
  launch_checks.check_traced(run)
  launch_knobs.check_knobs(run, learner)
  return run


def _average(ema: settings.Ema, average: Any, params: Any, step: jax.Array) -> Any:
  return weight_average.update(average, params, ema.decay, step, ema.start)


def make_curriculum(spec: Any, train: settings.Train) -> Curriculum:
  """The curriculum of a resolved section: one, or a list that composes."""
  return compose([plugins.bind("curriculum", s, key)(train.steps, train.batch_size, train.length)
                  for s, key in plugins.listed(spec, "config.curriculum")], train.batch_size, train.length)


def adapted(model: Model, peft: Method | None) -> Model:
  """The model that a PEFT method makes of this one."""
  return model if peft is None else peft.adapt(model)


def updated(optimizer: chain.Optimizer, peft: Method | None, steps: int) -> chain.Optimizer:
  """The optimizer with what a PEFT method does after each of so many updates."""
  if peft is None or peft.updates is None:
    return optimizer
  return dataclasses.replace(optimizer, transform=peft.updates(optimizer.transform, steps))


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
