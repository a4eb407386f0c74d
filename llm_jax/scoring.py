"""Difficulty between the rooms: what a curriculum asks of the training rows (an order, the domain of each) is given to
the data source here, and scorers that need a model get its losses."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from llm_jax import frozen_models
from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Curriculum, Knobs, Objective, Params
from llm_jax.curriculum.competence import Competence
from llm_jax.curriculum.composed import parts_of
from llm_jax.data import difficulty, scorers
from llm_jax.data.admission import Rankable
from llm_jax.data.corpus import Corpus
from llm_jax.data.pool import Pool
from llm_jax.frozen_models import FrozenModel


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


def losses_of(corpus: Corpus, key: str, path: str, knob: str) -> Callable[[Batch], np.ndarray]:
  """Rows -> (R, L) nats per target under the model in a workdir or a Hugging Face folder; raises as
  `frozen_models.load`."""
  from llm_jax.objectives import causal_lm

  model, params = frozen_models.load(corpus, path, f"{key}.{knob}")
  objective = causal_lm.build()
  values = jax.jit(lambda params, batch: objective(model.apply, params, batch, None, {}).values)
  return lambda rows: np.asarray(values(params, rows))


def about(curriculum: Curriculum, objective: Objective, reference: FrozenModel | None) -> Callable | None:
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
