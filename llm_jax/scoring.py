"""Difficulty between the rooms: what a curriculum asks of the training rows (an order, the domain of each) is given to
the data source here, and scorers that need a model get its losses."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Curriculum
from llm_jax.curriculum.competence import Competence
from llm_jax.curriculum.composed import parts_of
from llm_jax.data import difficulty, scorers
from llm_jax.data.corpus import Corpus
from llm_jax.data.windows import TrainSource


def equip(corpus: Corpus, curriculum: Curriculum, seed: int, cache_dir: pathlib.Path) -> Corpus:
  """The corpus whose training source can serve this curriculum: ranked by difficulty and with the row's domain, if asked.

  Raises:
    ConfigError: the source cannot do that. DataError: scores of something else.
  """
  ranked = [p for p in parts_of(curriculum) if isinstance(p, Competence)]
  label = "domain" in curriculum.fields
  if not ranked and not label:
    return corpus
  source = corpus.train
  if not ranked and getattr(source, "label_domains", False):
    return corpus
  if not isinstance(source, TrainSource):
    raise ConfigError("config.curriculum", "needs text windows to score and label", accepted="a text corpus")
  order = _order(corpus, source, curriculum, ranked[0], seed, cache_dir) if ranked else None
  return dataclasses.replace(corpus, train=source.serving(order=order, label_domains=label))


def _order(corpus: Corpus, source: TrainSource, curriculum: Curriculum, wanted: Competence, seed: int,
           cache_dir: pathlib.Path) -> difficulty.Ranking:
  lengths = lengths_of(curriculum)
  made_from = difficulty.identity(source, corpus.tokenizer, wanted.scorer)
  if wanted.scores is not None:
    folder = pathlib.Path(wanted.scores)
    difficulty.check(folder, made_from, lengths)
  else:
    make_score = functools.partial(scorer, corpus, source, wanted.scorer, "config.curriculum.scorer")
    folder = difficulty.cached(cache_dir, source, make_score, made_from, lengths)
  return difficulty.Ranking(str(folder), source.domains, wanted.order, seed)


def lengths_of(curriculum: Curriculum) -> list[int]:
  """Lengths of the windows that the curriculum's plans are cut from."""
  plans = [curriculum.plan(step, curriculum.init()) for step in (0, *curriculum.changes())]
  return sorted({p.window or p.length for p in plans})


def scorer(corpus: Corpus, source: TrainSource, spec: Mapping[str, Any], key: str) -> scorers.Score:
  """The scorer of a spec over this corpus.

  Raises:
    ConfigError: an unknown scorer or knob, or a model that is not there.
  """
  context = scorers.ScoringContext(corpus.tokenizer, source.streams, functools.partial(losses_of, corpus, key))
  return plugins.bind(scorers.ROOM, spec, key)(context)


def losses_of(corpus: Corpus, key: str, path: str, knob: str) -> Callable[[Batch], np.ndarray]:
  """Rows -> (R, L) nats per target under the model in a workdir or a Hugging Face folder.

  Raises:
    ConfigError: no model there, or it has another vocabulary.
  """
  from llm_jax import pretrained
  from llm_jax.objectives import causal_lm

  folder, name = pathlib.Path(path), f"{key}.{knob}"
  if not folder.is_dir():
    raise ConfigError(name, f"no such folder {path!r}", accepted="the workdir of a run, or a Hugging Face folder")
  read = pretrained.from_workdir if pretrained.is_workdir(folder) else pretrained.from_hub
  model, params, tokenizer = read(folder, key=name)
  if tokenizer is None or tokenizer.fingerprint != corpus.tokenizer.fingerprint:
    raise ConfigError(name, f"{path} has another tokenizer than the data", accepted="a model with the same tokenizer")
  objective = causal_lm.build()
  values = jax.jit(lambda params, batch: objective(model.apply, params, batch, None, {}).values)
  return lambda rows: np.asarray(values(params, rows))
