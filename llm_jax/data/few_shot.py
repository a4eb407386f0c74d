"""Few-shot tasks over tokens, and the two forms in which a batch serves them.

A task has a few classes with an answer each (token ids), passages to learn from (support) and passages to be judged by
(query). In the form `episodes` every example is a row of its own, for learners that adapt by gradient. In the form
`in_context` a row is the whole support set and one query after it, with a loss on the query's part alone: in-context
meta-training (MetaICL: Min et al. 2022). Direct, the answer is predicted from the passage; channel, the passage from
the answer.

Held-out queries come once with each answer in the answer's place, so that whatever was learned is judged alike: the
choice is the answer with the lowest mean loss (evaluation/choices.py).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Plan
from llm_jax.data.corpus import Corpus, HeldOutTasks
from llm_jax.data.episodes import EpisodeEvaluation, EpisodeSource, Sampler, episode_fields, generator, paced

Form = Literal["episodes", "in_context"]
Ids = np.ndarray
FIELDS = {"tokens": "(.., L) int32 input ids", "targets": "(.., L) int32 the token after each input",
          "weights": "(.., L) float32 1 where the target is the part that is asked for",
          "segment_ids": "(.., L) int32 1 for a token of the row, 0 for padding"}
SHORTEST = 4  # tokens of a passage and its answer


class Task(NamedTuple):
  """answers: ids of each class; support, query: (passage, class) in mixed order."""

  answers: list[Ids]
  support: list[tuple[Ids, int]]
  query: list[tuple[Ids, int]]


MakeTask = Callable[[np.random.Generator, int], Task]  # (random, most tokens of a passage with its answer)


@dataclasses.dataclass(frozen=True)
class Family:
  """Tasks of `ways` classes with `shots` support and `query` query passages each. between, after: ids between the two
  parts of an example, and behind an example that another follows. make: draws a task; must pickle."""

  make: MakeTask
  ways: int
  shots: int
  query: int
  channel: bool = False
  between: tuple[int, ...] = ()
  after: tuple[int, ...] = ()
  pad: int = 0

  def task(self, random: np.random.Generator, size: int, plan: Plan) -> Task:
    """A task whose examples have at most `size` tokens, cut down to the plan's n_way and k_shot."""
    if size - len(self.between) - len(self.after) < SHORTEST:
      raise ConfigError("config.train.length", f"leaves {size} tokens for each of {self.ways * self.shots + 1} "
                        "examples in a row", accepted=f"longer rows, or fewer of config.data.ways={self.ways} and "
                        f"config.data.shots={self.shots}")
    ways, shots = paced(plan, "n_way", self.ways, 2), paced(plan, "k_shot", self.shots)
    task = self.make(random, size - len(self.between) - len(self.after))
    return Task(task.answers[:ways], _first(task.support, ways, shots), _first(task.query, ways, self.query))

  def example(self, passage: Ids, answer: Ids) -> list[tuple[Ids, bool]]:
    """[(ids, whether they are asked for)]."""
    given, asked = (answer, passage) if self.channel else (passage, answer)
    return [(np.concatenate([given, np.asarray(self.between, np.int64)]), False), (asked, True)]

  def prompt(self, task: Task, passage: Ids, kind: int) -> list[tuple[Ids, bool]]:
    """The support set, then a passage with the answer of class `kind`."""
    pieces = []
    for shown, its in task.support:
      pieces += [(ids, False) for ids, _ in self.example(shown, task.answers[its])]
      pieces.append((np.asarray(self.after, np.int64), False))
    return pieces + self.example(passage, task.answers[kind])

  def prompts(self, random: np.random.Generator, plan: Plan) -> Batch:
    """plan.batch rows of plan.length tokens, each of a task of its own."""
    tasks = [self.task(random, self.share(plan), plan) for _ in range(plan.batch)]
    return fill([self.prompt(task, *task.query[0]) for task in tasks], plan.length, self.pad)

  def share(self, plan: Plan) -> int:
    """Tokens of one example of a prompt, whatever k_shot is."""
    return (plan.length + 1) // (self.ways * self.shots + 1)

  def choices(self, plan: Plan, task: Task, number: int) -> tuple[Batch, int]:
    """Query `number` of a task with every answer, (C, L), and the right one; weights 0 if there is no such query."""
    if number >= len(task.query):
      return fill([[]] * self.ways, plan.length, self.pad), 0
    passage, kind = task.query[number]
    rows = [self.prompt(task, passage, c) for c in range(len(task.answers))]
    return fill(rows + [[]] * (self.ways - len(rows)), plan.length, self.pad), kind

  def episodes(self, random: np.random.Generator, plan: Plan, *, judged: bool = False) -> Batch:
    """plan.batch episodes: support (T, S, L), query (T, Q, L), or (T, Q, C, L) with 'answer' (T, Q) if judged."""
    tasks = [self.task(random, plan.length + 1, plan) for _ in range(plan.batch)]
    part = partial(self._rows, plan.length)
    support = _stacked([part(t.answers, t.support, self.ways * self.shots) for t in tasks])
    if not judged:
      return {"support": support,
              "query": _stacked([part(t.answers, t.query, self.ways * self.query) for t in tasks])}
    bare = [t._replace(support=[]) for t in tasks]
    found = [[self.choices(plan, t, q) for q in range(self.ways * self.query)] for t in bare]
    query = _stacked([_stacked([rows for rows, _ in queries]) for queries in found])
    return {"support": support, "query": {**query, "answer": np.array([[a for _, a in q] for q in found], np.int32)}}

  def _rows(self, length: int, answers: list[Ids], examples: list[tuple[Ids, int]], count: int) -> Batch:
    """One example in each row, then rows without weight up to `count`."""
    rows = [self.example(passage, answers[kind]) for passage, kind in examples]
    return fill(rows + [[]] * (count - len(rows)), length, self.pad)


@dataclasses.dataclass(frozen=True)
class PromptEvaluation:
  """Every query of `tasks` held-out tasks after its support set: rows (B, C, L), one for each answer, and 'answer'
  (B,). knobs: of the plan, e.g. k_shot=1; seed: other tasks and other support sets."""

  family: Family
  tasks: int
  fields: Mapping[str, str]
  fingerprint: str
  knobs: Mapping[str, float] = dataclasses.field(default_factory=dict)
  seed: int = 0
  bytes_per_token: float | None = None  # answers are no running text

  def batches(self, batch: int, length: int) -> int:
    """Steps in a pass."""
    return -(-self.tasks * self._queries // batch)

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch:
    """Rows `rows` (default all) of batch `step` of the pass; the last one is filled up with weight 0."""
    plan = dataclasses.replace(plan, knobs={**plan.knobs, **self.knobs})
    drawn: dict[int, Task] = {}
    found = []
    for row in range(step * plan.batch, (step + 1) * plan.batch)[rows or slice(None)]:
      number, query = divmod(row, self._queries)
      if number not in drawn:
        drawn[number] = self.family.task(generator("evaluation", self.seed, number), self.family.share(plan), plan)
      found.append(self.family.choices(plan, drawn[number], query if number < self.tasks else self._queries))
    return {**_stacked([choices for choices, _ in found]), "answer": np.array([a for _, a in found], np.int32)}

  @property
  def _queries(self) -> int:
    return self.family.ways * self.family.query


def fill(rows: Sequence[Sequence[tuple[Ids, bool]]], length: int, pad: int) -> Batch:
  """Rows of pieces (ids, asked for) as arrays (R, L); an empty row has no weight."""
  shape = (len(rows), length)
  found = {"tokens": np.full(shape, pad, np.int32), "targets": np.full(shape, pad, np.int32),
           "weights": np.zeros(shape, np.float32), "segment_ids": np.zeros(shape, np.int32)}
  for r, pieces in enumerate(rows):
    if pieces:
      ids = np.concatenate([ids for ids, _ in pieces])
      counts = np.concatenate([np.full(len(ids), asked) for ids, asked in pieces])
      n = len(ids) - 1
      found["tokens"][r, :n], found["targets"][r, :n], found["weights"][r, :n] = ids[:-1], ids[1:], counts[1:]
      found["segment_ids"][r, :n] = 1
  return found


def _first(examples: list[tuple[Ids, int]], ways: int, each: int) -> list[tuple[Ids, int]]:
  """The first `each` examples of each of the first `ways` classes, in their order."""
  kept, seen = [], [0] * ways
  for example in examples:
    if example[1] < ways and seen[example[1]] < each:
      seen[example[1]] += 1
      kept.append(example)
  return kept


def _stacked(batches: Sequence[Batch]) -> Batch:
  return {name: np.stack([b[name] for b in batches]) for name in batches[0]}


def sources(corpus: Corpus, train: Family, held_out: Family, form: Form, *, fingerprint: str, seed: int,
            tasks: int) -> Corpus:
  """A text's corpus that serves these tasks in place of running text; evaluated on `tasks` held-out ones.

  In context without a single example in the row too: what the answers' frequency and the passage alone give.
  """
  in_context = form == "in_context"
  fields = FIELDS if in_context else episode_fields(FIELDS)
  sampler: Sampler = train.prompts if in_context else train.episodes
  served = EpisodeSource(sampler, seed, fields, fingerprint, padded=True)
  few_shot = held_out_tasks(held_out, fingerprint, tasks)
  prompts = few_shot.in_context
  evals = {"validation": prompts, "validation/0_shots": dataclasses.replace(prompts, knobs={"k_shot": 0})}
  return dataclasses.replace(corpus, train=served, evals=evals if in_context else {"validation": few_shot.gradient},
                             fingerprint=fingerprint, few_shot=few_shot)


def held_out_tasks(family: Family, fingerprint: str, tasks: int) -> HeldOutTasks:
  """The held-out tasks of a family in both forms."""
  judged = EpisodeEvaluation(partial(family.episodes, judged=True), tasks, episode_fields(FIELDS), fingerprint)
  return HeldOutTasks(family.shots, judged, PromptEvaluation(family, tasks, FIELDS, fingerprint))
