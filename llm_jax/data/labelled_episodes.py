"""Few-shot episodes over text with classes: N classes, K passages of each to learn from, and others to be judged by.

The classes are the domains of any text plug-in: labels of a labelled file, subfolders, sources of a mixture. Some are
held out, and evaluation is over those; with none held out it is over other documents of the same classes. What stands
for a class is its name, or a token drawn anew for every episode, which then says nothing outside it.
"""

import dataclasses
from functools import partial
from typing import Literal

import numpy as np

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError, DataError, unknown_name
from llm_jax.data.corpus import Corpus, DataContext
from llm_jax.data.episodes import checked
from llm_jax.data.few_shot import Family, Form, Ids, Task, sources
from llm_jax.data.fingerprint import bytes_digest, digest
from llm_jax.data.token_store import Stream
from llm_jax.data.tokenizers import Tokenizer

LABELS = 64  # arbitrary labels are drawn from so many of the most frequent tokens


@dataclasses.dataclass(frozen=True)
class Class:
  """The documents of one class. answer: ids of its name; streams: where they are."""

  name: str
  answer: Ids
  streams: tuple[Stream, ...]

  @property
  def documents(self) -> int:
    return sum(s.documents for s in self.streams)

  def passage(self, number: int, special: Ids) -> Ids:
    """The ids of document `number`, without special ones."""
    for stream in self.streams:
      if number < stream.documents:
        ids = stream.document(number).astype(np.int64)
        return ids[~np.isin(ids, special)]
      number -= stream.documents
    raise IndexError(number)


def make_task(random: np.random.Generator, size: int, *, classes: tuple[Class, ...], ways: int, shots: int, query: int,
              labels: Ids | None, special: Ids) -> Task:
  """`ways` classes and documents of each, none twice; a passage is the head of one. labels: for arbitrary answers."""
  chosen = [classes[i] for i in random.choice(len(classes), ways, replace=False)]
  answers = [c.answer for c in chosen] if labels is None else [
      a[None] for a in random.choice(labels, ways, replace=False)]
  found = [random.choice(c.documents, shots + query, replace=False) for c in chosen]
  def examples(where: slice) -> list[tuple[Ids, int]]:
    rows = [(c.passage(int(number), special)[:size - len(answers[kind])], kind)
            for kind, (c, numbers) in enumerate(zip(chosen, found)) for number in numbers[where]]
    return [rows[i] for i in random.permutation(len(rows))]
  return Task(answers, examples(slice(shots)), examples(slice(shots, None)))


def split(names: list[str], held_out: float | list[str] | tuple[str, ...]) -> tuple[list[str], list[str]]:
  """Class names to train on and to hold out: the listed ones, or a fraction of all, chosen by hash.

  Raises:
    ConfigError: an unknown class, a fraction out of range.
  """
  if isinstance(held_out, list | tuple):
    for name in held_out:
      if name not in names:
        raise unknown_name("config.data.held_out", name, names, what="class")
    return [n for n in names if n not in held_out], list(held_out)
  if not 0 <= held_out < 1:
    raise ConfigError("config.data.held_out", f"got {held_out:g}", accepted="a fraction below 1, or names of classes")
  ordered = sorted(names, key=lambda n: bytes_digest(n.encode()))
  chosen = set(ordered[:round(len(names) * held_out)])
  return [n for n in names if n not in chosen], [n for n in names if n in chosen]


def build(context: DataContext, *, text: dict, form: Form = "episodes", channel: bool = False, ways: int = 2,
          shots: int = 4, query: int = 4, held_out: float | list[str] | tuple[str, ...] = 0.3,
          labels: Literal["names", "arbitrary"] = "names", between: str = "\n", after: str = "\n\n",
          eval_tasks: int = 64) -> Corpus:
  """Few-shot episodes over the classes of a text.

  Args:
    text: a data plug-in whose domains are the classes, and its knobs, e.g. dict(name='text_folder', path='reviews').
    form: 'episodes' to adapt to by gradient, or 'in_context': rows of a whole support set and one query (MetaICL).
    channel: the label comes first and the passage is predicted.
    ways: classes in an episode.
    shots: support passages of each.
    query: query passages of each.
    held_out: part of the classes that only evaluation draws, or their names; 0 evaluates other documents of the same.
    labels: what stands for a class: its name, or an arbitrary token in every episode.
    between: text between a passage and its label.
    after: text behind each example of a prompt.
    eval_tasks: held-out episodes.

  Raises:
    ConfigError: a knob out of range or too few classes. DataError: too few documents in the classes.
  """
  checked(ways=(ways, 2), shots=(shots, 1), query=(query, 1))
  corpus: Corpus = plugins.bind("data", text, "config.data.text")(context)
  tokenizer = corpus.tokenizer
  if tokenizer is None:
    raise ConfigError("config.data.text", f"{text.get('name')!r} serves no text", accepted="a plug-in that serves text")
  names = sorted({s.domain for s in corpus.streams})
  training, kept = split(names, held_out)
  special = np.array(sorted(set(tokenizer.special.values())), np.int64)
  encode = lambda t: tuple(int(i) for i in tokenizer.encode(t)) if t else ()
  def family(names: list[str], splits: tuple[str, ...]) -> Family:
    classes = tuple(Class(n, tokenizer.encode(n).astype(np.int64), tuple(
        s for s in corpus.streams if s.domain == n and s.split in splits)) for n in names)
    classes = enough(classes, ways, shots + query)
    make = partial(make_task, classes=classes, ways=ways, shots=shots, query=query, special=special,
                   labels=None if labels == "names" else frequent(corpus, tokenizer, special))
    return Family(make, ways, shots, query, channel, encode(between), encode(after), tokenizer.special.get("pad", 0))
  train = family(training, ("train",))
  held = family(kept, ("train", "validation")) if kept else family(training, ("validation",))
  knobs = dict(form=form, channel=channel, ways=ways, shots=shots, query=query, held_out=kept, labels=labels,
               between=between, after=after)
  fingerprint = digest(corpus.fingerprint, "labelled_episodes", 1, knobs)
  return sources(corpus, train, held, form, fingerprint=fingerprint, seed=context.seed, tasks=eval_tasks)


def enough(classes: tuple[Class, ...], ways: int, documents: int) -> tuple[Class, ...]:
  """The classes that have as many documents as an episode takes.

  Raises:
    ConfigError: fewer classes than in an episode. DataError: fewer of them with documents enough.
  """
  if len(classes) < ways:
    raise ConfigError("config.data.ways", f"{ways} classes in an episode, and there are {len(classes)} "
                      f"({', '.join(c.name for c in classes) or 'none'}) to draw from",
                      accepted="fewer ways, more classes, or another config.data.held_out")
  found = tuple(c for c in classes if c.documents >= documents)
  if len(found) < ways:
    most = ", ".join(f"{c.name}: {c.documents}" for c in classes[:8])
    raise DataError(f"an episode takes {documents} documents of each of {ways} classes, and {len(found)} classes have "
                    f"so many ({most}): lower config.data.shots or config.data.query, or give more text")
  return found


def frequent(corpus: Corpus, tokenizer: Tokenizer, special: Ids) -> Ids:
  """The most frequent ids of the training text that are not special."""
  counts = np.zeros(tokenizer.vocab_size, np.int64)
  for stream in corpus.streams:
    if stream.split == "train":
      counts += np.bincount(stream.tokens[:2_000_000], minlength=len(counts))
  counts[special] = 0
  return np.argsort(-counts, kind="stable")[:min(LABELS, int((counts > 0).sum()))]
