"""Difficulty between the rooms: what a curriculum asks of the training rows (an order, the domain of each) is given to
the data source here, and scorers that need a model get its losses."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.core.model import Model
from llm_jax.core.types import START, Batch, Curriculum, Extra, Knobs, Objective, Params, TrainState
from llm_jax.curriculum.competence import Competence
from llm_jax.curriculum.composed import parts_of
from llm_jax.data import difficulty, scorers
from llm_jax.data.admission import Rankable
from llm_jax.data.corpus import Corpus
from llm_jax.data.pool import Pool
from llm_jax.data.tokenizers import Tokenizer


def equip(corpus: Corpus, curriculum: Curriculum, seed: int, cache_dir: pathlib.Path) -> Corpus:
  """The corpus whose training source can serve this curriculum: ranked by difficulty, naming each row's domain.

  Raises:
    ConfigError: the source cannot do that. DataError: scores of something else.
  """
  ranked = [p for p in parts_of(curriculum) if isinstance(p, Competence)]
  label = "domain" in curriculum.fields
  if not ranked and not label:
    return corpus
  if not ranked and getattr(corpus.train, "label_domains", False):
    return corpus
  source = rankable(corpus, "config.curriculum")
  order = _order(corpus, source, curriculum, ranked[0], seed, cache_dir) if ranked else None
  return dataclasses.replace(corpus, train=source.serving(order=order, label_domains=label))


def rankable(corpus: Corpus, key: str) -> Rankable:
  """The training source, if its rows have ids to score and admit them by.

  Raises:
    ConfigError: they have none.
  """
  if not isinstance(corpus.train, Rankable):
    raise ConfigError(key, "needs rows that have ids, to score or label them: these are drawn afresh at every step, or "
                      "continue each other", accepted="a text corpus (packing other than 'stream'), or "
                      "config.data.name='parity' or 'linear_functions' with config.data.pool")
  return corpus.train


def _order(corpus: Corpus, source: Rankable, curriculum: Curriculum, wanted: Competence, seed: int,
           cache_dir: pathlib.Path) -> difficulty.Ranking:
  lengths = lengths_of(curriculum)
  made_from = difficulty.identity(source, corpus.tokenizer, wanted.scorer)
  if wanted.scores is not None:
    folder = pathlib.Path(wanted.scores)
    if not folder.is_dir():
      raise ConfigError("config.curriculum.scores", f"no such folder {wanted.scores!r}",
                        accepted="a folder that python -m llm_jax.score wrote, or None to score now")
    difficulty.check(folder, made_from, lengths)
  else:
    make_score = functools.partial(scorer, corpus, source, wanted.scorer, "config.curriculum.scorer")
    folder = difficulty.cached(cache_dir, source, make_score, made_from, lengths)
  return difficulty.Ranking(str(folder), source.domains, wanted.order, seed)


def lengths_of(curriculum: Curriculum) -> list[int]:
  """Lengths of the windows that the curriculum's plans are cut from."""
  plans = [curriculum.plan(step, curriculum.init()) for step in (0, *curriculum.changes())]
  return sorted({p.window or p.length for p in plans})


def scorer(corpus: Corpus, source: Rankable, spec: Mapping[str, Any], key: str) -> scorers.Score:
  """The scorer of a spec over this corpus.

  Raises:
    ConfigError: an unknown scorer or knob, one that reads what these data do not have, or a model that is not there.
  """
  streams = getattr(source, "streams", ())
  context = scorers.ScoringContext(corpus.tokenizer, streams, functools.partial(losses_of, corpus, key),
                                   isinstance(source, Pool), key)
  return plugins.bind(scorers.ROOM, spec, key)(context)


def load(corpus: Corpus, path: str, key: str) -> tuple[Model, dict[str, Any]]:
  """The model of a workdir or a Hugging Face folder.

  Raises:
    ConfigError: no model there, or it has another tokenizer.
  """
  from llm_jax import pretrained

  if corpus.tokenizer is None:
    raise ConfigError(key, "the data are no text, which the model of a folder reads", accepted="a text corpus")
  folder = pathlib.Path(path)
  if not folder.is_dir():
    raise ConfigError(key, f"no such folder {path!r}", accepted="the workdir of a run, or a Hugging Face folder")
  read = pretrained.from_workdir if pretrained.is_workdir(folder) else pretrained.from_hub
  model, params, tokenizer = read(folder, key=key)
  if not same_tokenizer(corpus.tokenizer, tokenizer):
    raise ConfigError(key, f"{path} has another tokenizer than the data",
                      accepted="a model with the same tokenizer; for a Hugging Face folder "
                               "config.data.tokenizer = dict(name='hub', path=FOLDER)")
  return model, params


def same_tokenizer(ours: Tokenizer, theirs: Any) -> bool:
  """Whether text becomes the same ids; theirs: of a workdir, or of a Hugging Face folder, which has no fingerprint."""
  if isinstance(theirs, Tokenizer):
    return ours.fingerprint == theirs.fingerprint
  return ours.kind == theirs.kind and ours.files()["tokenizer.json"] == theirs.content


def losses_of(corpus: Corpus, key: str, path: str, knob: str) -> Callable[[Batch], np.ndarray]:
  """Rows -> (R, L) nats per target under the model in a workdir or a Hugging Face folder; raises as `load`."""
  from llm_jax.objectives import causal_lm

  model, params = load(corpus, path, f"{key}.{knob}")
  objective = causal_lm.build()
  values = jax.jit(lambda params, batch: objective(model.apply, params, batch, None, {}).values)
  return lambda rows: np.asarray(values(params, rows))


PREFIX = "reference."  # of the frozen arrays that are the reference model's


@dataclasses.dataclass(frozen=True)
class Reference:
  """A model whose losses a weighting, or an objective, compares with. Its arrays lie frozen in the train state, under
  `PREFIX`. weights: None are those that the run starts from; copied: names of the arrays that lie there, where the
  others are the run's own, which stay as they are."""

  model: Model
  weights: Mapping[str, jax.Array] | None
  copied: frozenset[str]

  def params(self) -> dict[str, np.ndarray]:
    """Copies of given arrays, which every process has whole, by their names in the train state."""
    return {PREFIX + name: np.array(a, np.float32) for name, a in (self.weights or {}).items()}

  def apply(self, frozen: Params, *args: Any, key: Any = None, **kwargs: Any) -> Any:
    """The reference's output, without dropout. frozen: of the train state, with the run's own arrays if they are read
    too."""
    own = {name: frozen[PREFIX + name if name in self.copied else name] for name in self.model.shapes}
    return self.model.apply(own, *args, **kwargs)


def reference_of(curriculum: Curriculum, objective: Objective, corpus: Corpus, model: Model,
                 trained: Mapping[str, Any]) -> Reference | None:
  """The reference model of the curriculum or of the objective, if one has it. model: that is trained; trained: its
  arrays that change.

  Raises:
    ConfigError: as `load`; or both name one and not the same; or it does not offer what the objective needs.
  """
  named = {k: path for k, path in (("config.curriculum.reference", curriculum.reference),
                                   (f"config.objective.{objective.reference_knob}", objective.reference))
           if path is not None}
  if not named:
    return None
  key, path = list(named.items())[-1]
  if len(set(named.values())) > 1:
    raise ConfigError(key, f"{path!r}, and the curriculum's reference is {curriculum.reference!r}",
                      accepted="one model for both")
  if path == START:
    return Reference(model, None, frozenset(trained))
  found, weights = load(corpus, path, key)
  if missing := set(objective.needs if objective.reference else ()) - found.offers:
    raise ConfigError(key, f"the model of {path} does not offer {', '.join(sorted(missing))}",
                      accepted="a model that can be trained by the same objective")
  return Reference(found, weights, frozenset(found.shapes))


def as_extras(reference: Reference | None) -> dict[str, Extra]:
  """The reference's arrays as further arrays of the trained model; their values come with `with_reference`, or are
  those of the start."""
  if reference is None:
    return {}
  zeros = lambda shape: lambda key: jnp.zeros(shape, jnp.float32)
  return {PREFIX + name: Extra(shape.shape, reference.model.logical_axes[name], zeros(shape.shape))
          for name, shape in reference.model.shapes.items() if name in reference.copied}


def started(params: Params, reference: Reference | None) -> Params:
  """The arrays of a run at its start, those of a reference that is the start among them."""
  if reference is None or reference.weights is not None:
    return params
  return {**params, **{PREFIX + name: params[name] for name in reference.copied}}


def freezing(section: Mapping[str, Any], reference: Reference | None) -> dict[str, Any]:
  """The optimizer's section with the reference's arrays among what is not trained."""
  if reference is None:
    return dict(section)
  frozen = section["freeze"]
  return {**section, "freeze": [*([frozen] if isinstance(frozen, str) else frozen), "^" + re.escape(PREFIX)]}


def with_reference(state: TrainState, reference: Reference | None) -> TrainState:
  """The state with a copy of the reference's weights in place (a step that donates the state must not take them along),
  laid out as the state's own arrays are, over the devices of all processes."""
  if reference is None or reference.weights is None:
    return state
  place = lambda name, a: jax.make_array_from_callback(a.shape, state.frozen[name].sharding, lambda part: a[part])
  return state.replace(frozen=state.frozen | {name: place(name, a) for name, a in reference.params().items()})


def about(curriculum: Curriculum, objective: Objective, reference: Reference | None) -> Callable | None:
  """(frozen, batch, key, knobs) -> what the curriculum's weighting is told: the fields it asks for, and the losses of
  the reference on the same rows; None if that is nothing."""
  if not curriculum.fields and curriculum.reference is None:
    return None
  def told(frozen: Params, batch: Batch, key: Any, knobs: Knobs) -> dict[str, jax.Array]:
    found = {name: batch[name] for name in curriculum.fields}
    if reference is not None and curriculum.reference is not None:
      values = objective(reference.apply, frozen, batch, key, knobs).values
      found["reference"] = jax.lax.stop_gradient(values)
    return found
  return told
