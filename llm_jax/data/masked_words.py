"""Text with self-supervised tasks made from itself: which of N words was masked here? (Bansal et al. 2020, subset
masked language modelling tasks.)

An episode picks `ways` words (tokens) at random and gives each a label token drawn anew; an example is a passage with
its word masked, followed by the label as the one target that counts. Labels mean nothing outside an episode, so only
adapting to the support set helps. In the form `episodes` batches hold the text's own rows too, so that
`meta_learning = dict(name='mixed')` can pre-train on both; `in_context` is MetaICL (data/few_shot.py).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.types import Batch, DataSource, Plan
from llm_jax.data.corpus import Corpus, DataContext
from llm_jax.data.episodes import Sampler, checked, episode_fields, generator, rows_of
from llm_jax.data.few_shot import FIELDS, Family, Form, Task, held_out_tasks, sources
from llm_jax.data.fingerprint import digest
from llm_jax.data.token_store import Stream

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


def make_task(random: np.random.Generator, size: int, *, index: Places, ways: int, shots: int, query: int,
              mask: int) -> Task:
  """Words of the text, each with an arbitrary token as its answer; passages of size - 1 tokens with the word masked. No
  passage of the support is centred on a place of the query."""
  words = random.choice(index.words, ways, replace=False)
  answers = random.choice(index.labels, ways, replace=False)
  found = [random.choice(index.order[slice(*index.starts[[w, w + 1]])], shots + query, replace=False) for w in words]
  def passages(places: list[np.ndarray]) -> list[tuple[np.ndarray, int]]:
    at, kind = np.concatenate(places), np.repeat(np.arange(ways), len(places[0]))
    first = np.clip(at - random.integers(0, size - 1, len(at)), 0, len(index.tokens) - (size - 1))
    rows = index.tokens[first[:, None] + np.arange(size - 1)]
    rows = np.where(rows == words[kind, None], mask, rows)
    return [(rows[i], int(kind[i])) for i in random.permutation(len(at))]
  return Task([answers[c:c + 1] for c in range(ways)], passages([f[:shots] for f in found]),
              passages([f[shots:] for f in found]))


@dataclasses.dataclass(frozen=True)
class TextAndEpisodes:
  """A DataSource: the rows of `text` and, beside them, `tasks` episodes."""

  text: DataSource
  sampler: Sampler
  tasks: int
  seed: int
  fields: Mapping[str, str]
  fingerprint: str
  padded: bool = True  # the episodes' rows

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


def build(context: DataContext, *, text: dict, form: Form = "episodes", channel: bool = False, tasks: int = 4,
          ways: int = 2, shots: int = 4, query: int = 4, eval_tasks: int = 64) -> Corpus:
  """Text, and tasks of finding the masked word.

  Args:
    text: another data plug-in and its knobs, e.g. dict(name='stdlib').
    form: 'episodes' beside the text's rows, or 'in_context': rows of a whole support set and one query.
    channel: the label comes first and the passage is predicted.
    tasks: episodes in a batch, beside the text's rows.
    ways: words in an episode.
    shots: support passages of each.
    query: query passages of each.
    eval_tasks: held-out episodes, over validation text.
  """
  checked(tasks=(tasks, 1), ways=(ways, 2), shots=(shots, 1), query=(query, 1))
  corpus: Corpus = plugins.bind("data", text, "config.data.text")(context)
  tokenizer = corpus.tokenizer
  if tokenizer is None:
    raise ConfigError("config.data.text", f"{text.get('name')!r} serves no text", accepted="a plug-in that serves text")
  special = tokenizer.special
  mask = special.get("mask", special.get("unk", special.get("pad", 0)))
  def family(split: str) -> Family:
    streams = [s for s in corpus.streams if s.split == split]
    index = places(streams, tokenizer.vocab_size, 4 * (shots + query), {*special.values(), mask})
    if len(index.words) < ways:
      raise ConfigError("config.data.ways", f"{ways} words in an episode, but only {len(index.words)} occur often "
                        f"enough in the {split} text", accepted=f"at most {len(index.words)}")
    make = partial(make_task, index=index, ways=ways, shots=shots, query=query, mask=mask)
    return Family(make, ways, shots, query, channel, (mask,), pad=special.get("pad", 0))
  train, held_out = family("train"), family("validation")
  knobs = dict(ways=ways, shots=shots, query=query, mask=mask, form=form, channel=channel)
  fingerprint = digest(corpus.fingerprint, "masked_words", 2, knobs)
  if form == "in_context":
    return sources(corpus, train, held_out, form, fingerprint=fingerprint, seed=context.seed, tasks=eval_tasks)
  beside = TextAndEpisodes(corpus.train, train.episodes, tasks, context.seed,
                           {**corpus.train.fields, **episode_fields(FIELDS)}, digest(fingerprint, tasks))
  few_shot = held_out_tasks(held_out, fingerprint, eval_tasks)
  return dataclasses.replace(corpus, train=beside, evals={**corpus.evals, "validation/episodes": few_shot.gradient},
                             fingerprint=beside.fingerprint, few_shot=few_shot)
