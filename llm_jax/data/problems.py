"""Prompts with known answers, made from the seed: sums, products, and lists of digits to copy, reverse or sort.

    12+7=19      3*4=12      copy 215=215      sort 215=125

A row is prompt, answer and the token that ends a text, for supervised learning; prompt and answer are there alone too,
for a policy that answers and a reward that knows. Which problems are held out is decided by a hash of the prompt.
"""

import dataclasses
import hashlib
import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Plan
from llm_jax.data import tokenizers
from llm_jax.data.corpus import Corpus, DataContext
from llm_jax.data.episodes import generator
from llm_jax.data.fingerprint import digest
from llm_jax.data.tokenizers import Tokenizer

FIELDS = {
    "tokens": "(B, L) int32 prompt, answer and end, then padding", "targets": "(B, L) int32 each next token",
    "weights": "(B, L) float32 1 where the target is of the answer or its end",
    "segment_ids": "(B, L) int32 1 where there is text", "prompt": "(B, P) int32 the prompt, then padding",
    "prompt_length": "(B,) int32", "answer": "(B, A) int32 answer and end, then padding", "answer_length": "(B,) int32"}
Problem = tuple[str, str]  # prompt, answer
Task = Literal["addition", "multiplication", "copy", "reverse", "sort"]
TRIES = 10_000


def _of_numbers(sign: str, result: Callable[[int, int], int]) -> Callable[[np.random.Generator, int], Problem]:
  def draw(random: np.random.Generator, digits: int) -> Problem:
    a, b = random.integers(0, 10**digits, 2).tolist()
    return f"{a}{sign}{b}=", str(result(a, b))
  return draw


def _of_list(word: str, change: Callable[[str], str]) -> Callable[[np.random.Generator, int], Problem]:
  def draw(random: np.random.Generator, digits: int) -> Problem:
    text = "".join(map(str, random.integers(0, 10, random.integers(1, digits, endpoint=True)).tolist()))
    return f"{word} {text}=", change(text)
  return draw


TASKS: dict[str, Callable[[np.random.Generator, int], Problem]] = {
    "addition": _of_numbers("+", operator.add), "multiplication": _of_numbers("*", operator.mul),
    "copy": _of_list("copy", str),
    "reverse": _of_list("reverse", lambda text: text[::-1]), "sort": _of_list("sort", lambda t: "".join(sorted(t)))}
LONGEST = {"addition": lambda d: (2 * d + 2, d + 1), "multiplication": lambda d: (2 * d + 2, 2 * d),
           "copy": lambda d: (d + 6, d), "reverse": lambda d: (d + 9, d), "sort": lambda d: (d + 6, d)}


@dataclasses.dataclass(frozen=True)
class Problems:
  """A DataSource of fresh problems for ever, those of the training side; or, with `rows`, so many held-out ones.

  widths: tokens of the longest prompt and of the longest answer with its end.
  """

  task: str
  digits: int
  held_out: float
  tokenizer: Tokenizer
  end: int
  pad: int
  seed: int
  fingerprint: str
  rows: int | None = None
  fields: Mapping[str, str] = dataclasses.field(default_factory=lambda: FIELDS)
  boundaries: bool = False
  padded: bool = True
  bytes_per_token: float | None = None  # the loss is that of answers alone

  @property
  def widths(self) -> tuple[int, int]:
    prompt, answer = LONGEST[self.task](self.digits)
    return prompt, answer + 1

  def batches(self, batch: int, length: int) -> int:
    """Steps in a pass of an evaluation set."""
    assert self.rows is not None
    return -(-self.rows // batch)

  def problem(self, *key: Any) -> Problem:
    """The first problem of this side that these dice give.

    Raises:
      ConfigError: of TRIES problems none is of this side.
    """
    random = generator(*key)
    for _ in range(TRIES):
      found = TASKS[self.task](random, self.digits)
      if (share_of(found[0]) < self.held_out) == (self.rows is not None):
        return found
    raise ConfigError("config.data.held_out", f"{self.held_out:g} of so few problems are none, or all",
                      accepted="another share, or more digits")

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch:
    """Rows `rows` (default all) of the batch of `step`.

    Raises:
      ConfigError: rows too short for a prompt and its answer.
    """
    P, A = self.widths
    check_length(plan.length, P, A)
    example, texts = self.drawn(step, plan, rows)
    batch = rows_of([(self.tokenizer.encode(p), self.tokenizer.encode(a)) for p, a in texts], (P, A), plan.length,
                    self.end, self.pad)
    return batch | {"weights": batch["weights"] * self.counts(example)[:, None]}

  @property
  def dice(self) -> tuple[Any, ...]:
    """What the random numbers of this side are named by, beside an example's own."""
    return ("problems", self.task, self.digits, "held out") if self.rows else ("problems", self.seed)

  def drawn(self, step: int, plan: Plan, rows: slice | None) -> tuple[np.ndarray, list[Problem]]:
    """Numbers and problems of the examples of these rows."""
    example = (step * plan.batch + np.arange(plan.batch))[rows or slice(None)]
    return example, [self.problem(*self.dice, i) for i in example.tolist()]

  def counts(self, example: np.ndarray) -> np.ndarray:
    """(R,) bool: which examples count, and do not fill up the last batch of an evaluation set."""
    return np.ones(len(example), bool) if self.rows is None else example < self.rows


def check_length(length: int, prompt: int, answer: int, remedy: str = "") -> None:
  """Raises ConfigError if rows of `length` tokens do not hold so long a prompt and answer. remedy: a further one."""
  if length < prompt + answer:
    raise ConfigError("config.train.length", f"{length} tokens do not hold a prompt of {prompt} and an answer of "
                      f"{answer}", accepted=f"at least {prompt + answer}{remedy}")


def end_of_answers(tokenizer: Tokenizer) -> int:
  """The id that ends an answer.

  Raises:
    ConfigError: a tokenizer without one.
  """
  if tokenizer.end_of_document is None:
    raise ConfigError("config.data.tokenizer", "has neither an 'eod' nor an 'eos' token, which ends an answer",
                      accepted="a tokenizer with one of these roles")
  return tokenizer.end_of_document


def rows_of(pairs: list[tuple[np.ndarray, np.ndarray]], widths: tuple[int, int], length: int, end: int,
            pad: int) -> Batch:
  """The batch of some prompts and answers, as ids."""
  B, (P, A) = len(pairs), widths
  tokens, weights = np.full((B, length + 1), pad, np.int32), np.zeros((B, length), np.float32)
  prompt, answer = np.full((B, P), pad, np.int32), np.full((B, A), pad, np.int32)
  counts = np.array([(len(p), len(a) + 1) for p, a in pairs], np.int32).reshape(B, 2)
  for i, (p, a) in enumerate(pairs):
    n, m = counts[i]
    prompt[i, :n], answer[i, :m] = p, [*a, end]
    tokens[i, :n + m] = [*p, *a, end]
    weights[i, n - 1:n + m - 1] = 1.0
  return {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights,
          "segment_ids": (np.arange(length) < counts.sum(1)[:, None]).astype(np.int32),
          "prompt": prompt, "prompt_length": counts[:, 0], "answer": answer, "answer_length": counts[:, 1]}


def share_of(prompt: str) -> float:
  """A number in [0, 1) that the prompt alone decides."""
  return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=4).digest()) / 2**32


def build(context: DataContext, *, task: Task = "addition", digits: int = 2, tokenizer: dict | None = None,
          held_out: float = 0.1, eval_rows: int = 512) -> Corpus:
  """Generated problems.

  Args:
    task: what is asked for.
    digits: of a number in sums and products; at most, of a list.
    tokenizer: {'name': plug-in of data/tokenizers, its knobs}; None is characters with 'eod' and 'pad'.
    held_out: share of all problems that are never trained on.
    eval_rows: held-out problems of an evaluation.

  Raises:
    ConfigError: a number out of range, or a tokenizer without an end.
  """
  if digits < 1:
    raise ConfigError("config.data.digits", f"got {digits}", accepted="a whole number from 1")
  if not 0 < held_out < 1:
    raise ConfigError("config.data.held_out", f"got {held_out:g}", accepted="between 0 and 1")
  spec = tokenizer or {"name": "characters", "special": ("eod", "pad")}
  random = generator("problems, tokenizer", task, digits)
  texts = ["".join(TASKS[task](random, digits)) for _ in range(1000)]
  made = plugins.bind(tokenizers.ROOM, spec, "config.data.tokenizer")(context).train(["0123456789", *texts])
  end = end_of_answers(made)
  name = digest("problems", task, digits, held_out, made.fingerprint)
  source = lambda rows: Problems(task, digits, held_out, made, end, made.special.get("pad", end), context.seed,
                                 digest(name, rows), rows)
  train: Any = source(None)
  for side in (train, source(eval_rows)):  # each has a problem at least
    side.problem("problems, check")
  return Corpus(made, train, {"validation": source(eval_rows)}, train.fingerprint,
                f"{task} of {digits} digits, {held_out:.0%} of the problems held out, e.g. {texts[0]}", None)
