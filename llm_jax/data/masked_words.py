"""Text with self-supervised tasks made from itself: which of N words was masked here? (Bansal et al. 2020, subset
masked language modelling tasks.)

An episode picks `ways` words (tokens) at random and gives each a label token drawn anew; an example is a passage with
its word masked, followed by the label as the one target that counts. Labels mean nothing outside an episode, so only
adapting to the support set helps. Batches hold the text's own rows too, so that `meta_learning = dict(name='mixed')`
can pre-train on both.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.types import Batch, DataSource, Plan
from llm_jax.data.corpus import Corpus, DataContext
from llm_jax.data.episodes import EpisodeEvaluation, Sampler, episode_fields, generator, rows_of
from llm_jax.data.fingerprint import digest
from llm_jax.data.token_store import Stream

FIELDS = {"tokens": "(.., L) int32: passage with its word masked", "targets": "(.., L) int32: the label at the end",
          "weights": "(.., L) float32: 1 at the end"}
MOST = 2_000_000  # tokens of each domain that words are looked up in
LABELS = 64  # labels are drawn from so many of the most frequent tokens


@dataclasses.dataclass(frozen=True)
class Places:
  """Where each word stands. tokens: (n,) ids; order: positions sorted by id; starts: (V + 1,) of each id in `order`;
  words: ids to make tasks of."""

  tokens: np.ndarray
  order: np.ndarray
  starts: np.ndarray
  words: np.ndarray
  labels: np.ndarray


def places(streams: Sequence[Stream], vocabulary: int, least: int, exclude: set[int]) -> Places:
  """The index over the beginnings of some streams.

  Raises:
    DataError: fewer words than labels occur `least` times.
  """
  tokens = np.concatenate([np.asarray(s.tokens[:MOST]) for s in streams]).astype(np.int32)
  counts = np.bincount(tokens, minlength=vocabulary)
  frequent = np.argsort(-counts, kind="stable")
  words = np.array([w for w in frequent if counts[w] >= least and w not in exclude], np.int64)
  if len(words) < 2:
    raise DataError(f"fewer than two words occur {least} times in the {len(tokens):,} tokens: give more text, or lower "
                    "config.data.shots or config.data.query")
  return Places(tokens, np.argsort(tokens, kind="stable"), np.concatenate([[0], np.cumsum(counts)]), words,
                words[:LABELS])


def episodes(random: np.random.Generator, plan: Plan, *, index: Places, ways: int, shots: int, query: int,
             mask: int) -> Batch:
  """plan.batch episodes of passages of plan.length - 1 tokens and a mask that asks for the label. No passage of the
  support is centred on a place of the query."""
  tasks = [_episode(random, plan.length, index, ways, shots, query, mask) for _ in range(plan.batch)]
  parts = {"support": slice(0, ways * shots), "query": slice(ways * shots, None)}
  return {part: {n: np.stack([t[n][where] for t in tasks]) for n in FIELDS} for part, where in parts.items()}


def _episode(random: np.random.Generator, length: int, index: Places, ways: int, shots: int, query: int,
             mask: int) -> dict[str, np.ndarray]:
  words = random.choice(index.words, ways, replace=False)
  labels = random.choice(index.labels, ways, replace=False)
  each = shots + query
  found = np.stack([random.choice(index.order[slice(*index.starts[[w, w + 1]])], each, replace=False) for w in words])
  at = np.concatenate([found[:, :shots].ravel(), found[:, shots:].ravel()])
  word = np.concatenate([np.repeat(words, shots), np.repeat(words, query)])
  label = np.concatenate([np.repeat(labels, shots), np.repeat(labels, query)])
  first = np.clip(at - random.integers(0, length - 1, len(at)), 0, len(index.tokens) - (length - 1))
  passages = index.tokens[first[:, None] + np.arange(length - 1)]
  tokens = np.where(passages == word[:, None], mask, passages)
  tokens = np.concatenate([tokens, np.full((len(at), 1), mask)], axis=1).astype(np.int32)
  targets, weights = np.zeros_like(tokens), np.zeros(tokens.shape, np.float32)
  targets[:, -1], weights[:, -1] = label, 1.0
  mixed = np.concatenate([random.permutation(ways * shots), ways * shots + random.permutation(ways * query)])
  return {"tokens": tokens[mixed], "targets": targets[mixed], "weights": weights[mixed]}


@dataclasses.dataclass(frozen=True)
class TextAndEpisodes:
  """A DataSource: the rows of `text` and, beside them, `tasks` episodes."""

  text: DataSource
  sampler: Sampler
  tasks: int
  seed: int
  fields: Mapping[str, str]
  fingerprint: str

  @property
  def boundaries(self) -> bool:
    return bool(getattr(self.text, "boundaries", True))

  @property
  def domains(self) -> tuple[str, ...]:
    return tuple(getattr(self.text, "domains", ()))

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch:
    """Rows `rows` of the text's batch, and that share of the episodes."""
    random = generator(self.seed, "train", step)
    whole = self.sampler(random, dataclasses.replace(plan, batch=self.tasks))
    share = None if rows is None else slice(rows.start * self.tasks // plan.batch, rows.stop * self.tasks // plan.batch)
    return {**self.text.take(step, plan, rows), **rows_of(whole, share)}


def build(context: DataContext, *, text: dict, tasks: int = 4, ways: int = 2, shots: int = 4, query: int = 4,
          eval_tasks: int = 64) -> Corpus:
  """Text, and tasks of finding the masked word.

  Args:
    text: another data plug-in and its knobs, e.g. dict(name='stdlib').
    tasks: episodes in a batch, beside the text's rows.
    ways: words in an episode.
    shots: support passages of each.
    query: query passages of each.
    eval_tasks: held-out episodes, over validation text.
  """
  for name, value, least in (("tasks", tasks, 1), ("ways", ways, 2), ("shots", shots, 1), ("query", query, 1)):
    if value < least:
      raise ConfigError(f"config.data.{name}", f"got {value}", accepted=f"a whole number from {least}")
  corpus: Corpus = plugins.bind("data", text, "config.data.text")(context)
  tokenizer = corpus.tokenizer
  if tokenizer is None:
    raise ConfigError("config.data.text", f"{text.get('name')!r} serves no text", accepted="a plug-in that serves text")
  special = tokenizer.special
  mask = special.get("mask", special.get("unk", special.get("pad", 0)))
  knobs: dict[str, Any] = dict(ways=ways, shots=shots, query=query, mask=mask)
  def sampler(split: str) -> Sampler:
    streams = [s for s in corpus.streams if s.split == split]
    index = places(streams, tokenizer.vocab_size, 4 * (shots + query), {*special.values(), mask})
    if len(index.words) < ways:
      raise ConfigError("config.data.ways", f"{ways} words in an episode, but only {len(index.words)} occur often "
                        f"enough in the {split} text", accepted=f"at most {len(index.words)}")
    return partial(episodes, index=index, ways=ways, shots=shots, query=query, mask=mask)
  fields, fingerprint = episode_fields(FIELDS), digest(corpus.fingerprint, "masked_words", knobs)
  train = TextAndEpisodes(corpus.train, sampler("train"), tasks, context.seed, {**corpus.train.fields, **fields},
                          digest(fingerprint, tasks))
  held_out = EpisodeEvaluation(sampler("validation"), eval_tasks, fields, fingerprint)
  return dataclasses.replace(corpus, train=train, evals={**corpus.evals, "validation/episodes": held_out},
                             fingerprint=train.fingerprint)
