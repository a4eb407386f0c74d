"""Generated problems as preferences: the known answer against a wrong one, which a reward model learns to tell apart.

    sort 215=   chosen 125   rejected 115, 12, 1295, 215 or 125555

A wrong answer is the right one after some changes: another digit, one too few, one too many, another order, a digit
again and again. It ends like the right one and is at most as long as a row allows: what the pairs never show, a policy
is rewarded for at random. Problems, tokenizer and held-out side are those of data/problems.py with the same knobs, so
that a policy over problems can be rewarded by a model of these pairs.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_jax.core.types import Batch, Plan
from llm_jax.data import problems
from llm_jax.data.corpus import Corpus, DataContext
from llm_jax.data.episodes import generator
from llm_jax.data.fingerprint import digest
from llm_jax.data.preference_rows import PAIR_FIELDS, columns, rows_of
from llm_jax.data.problems import Problems, Task, check_length


@dataclasses.dataclass(frozen=True)
class ProblemPairs:
  """A DataSource of the problems of `source`, two completions of each."""

  source: Problems
  fields: Mapping[str, str] = dataclasses.field(default_factory=lambda: PAIR_FIELDS)
  boundaries: bool = True
  bytes_per_token: float | None = None  # a loss per pair, not per token

  @property
  def fingerprint(self) -> str:
    return digest("pairs", 1, self.source.fingerprint)

  def batches(self, batch: int, length: int) -> int:
    """Steps in a pass of an evaluation set."""
    return self.source.batches(batch, length)

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch:
    """Rows `rows` (default all) of the batch of `step`.

    Raises:
      ConfigError: rows too short for a prompt and its answer.
    """
    prompt, answer = self.source.widths
    check_length(plan.length, prompt, answer)
    example, found = self.source.drawn(step, plan, rows)
    made = [self._pair(p, a, wrong(a, plan.length - prompt - 1, generator("wrong answer", *self.source.dice, i)),
                       plan.length) for i, (p, a) in zip(example, found)]
    return columns(("chosen", "rejected"), made) | {
        "margin": np.zeros(len(found), np.float32), "weights": self.source.counts(example).astype(np.float32)}

  def _pair(self, prompt: str, answer: str, other: str, length: int) -> list[np.ndarray]:
    s, encode = self.source, self.source.tokenizer.encode
    return rows_of(encode(prompt), [encode(answer), encode(other)], length, begin=(), end=(s.end,), pad=s.pad)


def wrong(answer: str, longest: int, random: np.random.Generator) -> str:
  """Another answer than this one, of at most so many digits."""
  found = answer
  while found == answer:
    for _ in range(random.geometric(0.7)):
      found = changed(found, random)[:longest]
  return found


def changed(answer: str, random: np.random.Generator) -> str:
  """An answer after one change, which may leave it as it was; a digit that comes in is often one of its own."""
  i, digit = int(random.integers(len(answer) + 1)), str(random.choice(list("0123456789" + 3 * answer)))
  again = (answer[i - 1:i] or digit) * int(random.integers(2, 5))
  ways = [answer[:i] + digit + answer[i + 1:], answer[:i] + answer[i + 1:], answer[:i] + digit + answer[i:],
          "".join(random.permutation(list(answer))), answer[:i] + again]
  return ways[random.integers(len(ways))]


def build(context: DataContext, *, task: Task = "addition", digits: int = 2, tokenizer: dict | None = None,
          held_out: float = 0.1, eval_rows: int = 512) -> Corpus:
  """Generated problems, each with its answer and a wrong one.

  Args:
    task: what is asked for.
    digits: of a number in sums and products; at most, of a list.
    tokenizer: {'name': plug-in of data/tokenizers, its knobs}; None is characters with 'eod' and 'pad'.
    held_out: share of all problems that are never trained on.
    eval_rows: held-out problems of an evaluation.

  Raises:
    ConfigError: as data/problems.py.
  """
  made = problems.build(context, task=task, digits=digits, tokenizer=tokenizer, held_out=held_out, eval_rows=eval_rows)
  of_problems: Any = made.train, made.evals["validation"]
  train, validation = map(ProblemPairs, of_problems)
  return dataclasses.replace(made, train=train, evals={"validation": validation}, fingerprint=train.fingerprint,
                             description=f"{made.description}, each against a wrong answer")
