"""Prompts with known answers from files: what a policy is asked, and what a reward compares its answer with.

A row of a file has a prompt and an answer. The batches are those of generated problems (data/problems.py), so the same
data serve supervised learning of the answers and policies that find them.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Plan
from llm_jax.data.corpus import Corpus, DataContext, Rules, prepare
from llm_jax.data.documents import BadRow, Document, together
from llm_jax.data.fingerprint import digest
from llm_jax.data.passes import Passes
from llm_jax.data.problems import FIELDS, check_length, end_of_answers, rows_of
from llm_jax.data.row_files import SplitFiles, no_text
from llm_jax.data.token_store import Stream

STREAMS = ("prompt", "answer")


class QuestionFiles:
  """A DocumentSource: prompt and answer of a row lie in two streams, side by side. Rows of one prompt fall on one side
  of the split."""

  def __init__(self, path: str, validation_path: str | None, columns: tuple[str, str], cache_dir: pathlib.Path):
    self._files, self._columns = SplitFiles("prompts and answers", path, validation_path, cache_dir), columns
    self.description = self._files.description
    self.fingerprint = digest("questions", columns, self._files.digests)

  def documents(self) -> Iterator[Document | BadRow]:
    for part, where, row in self._files.rows():
      if (reason := no_text(row, self._columns)) is not None:
        yield BadRow(where, reason)
        continue
      texts = [str(row[c]) for c in self._columns]
      yield from together([Document(text, name, where, group=texts[0], split=part, counts=not i)
                           for i, (text, name) in enumerate(zip(texts, STREAMS))])


class Questions:
  """A DataSource over the prompts of a split; with `once` an evaluation set. widths: tokens of a prompt, of which the
  last are kept, and of an answer with its end, of which the first are."""

  fields: Mapping[str, str] = FIELDS
  boundaries = False
  padded = True
  bytes_per_token: float | None = None  # the loss is that of answers alone

  def __init__(self, streams: Sequence[Stream], widths: tuple[int, int], *, begin: int | None, end: int, pad: int,
               seed: int, fingerprint: str, once: bool):
    self.streams = {s.domain: s for s in streams}
    self.widths, self.end, self.pad = widths, end, pad
    self.begin = [] if begin is None else [begin]
    self.passes = Passes(self.streams["prompt"].documents, seed, "question", once)
    self.fingerprint = digest(fingerprint, widths, begin)

  def batches(self, batch: int, length: int) -> int:
    """Steps in a pass over all prompts."""
    return self.passes.batches(batch)

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch:
    """Rows `rows` (default all) of the batch of `step`; raises as `Passes.places`, and ConfigError for rows that are
    too short."""
    P, A = self.widths
    check_length(plan.length, P, A, ", or less of config.data.prompt_tokens and answer_tokens")
    place, counts = self.passes.places(step, plan)
    kept, room = rows or slice(None), P - len(self.begin)
    prompts, answers = self.streams["prompt"].document, self.streams["answer"].document
    pairs = [(np.array([*self.begin, *prompts(i)[-room:]]), answers(i)[:A - 1]) for i in place[kept].tolist()]
    batch = rows_of(pairs, (P, A), plan.length, self.end, self.pad)
    return batch | {"weights": batch["weights"] * counts[kept][:, None]}


def build(context: DataContext, *, path: str, validation_path: str | None = None, prompt_column: str = "prompt",
          answer_column: str = "answer", prompt_tokens: int = 128, answer_tokens: int = 64,
          tokenizer: dict | None = None, validation_fraction: float = 0.05, bos: bool = True,
          on_bad_data: Literal["skip", "fail"] = "skip", max_bad_fraction: float = 0.01) -> Corpus:
  """Prompts and answers, one of each a row.

  Args:
    path: a .jsonl, .jsonl.gz, .parquet or .csv file, or a folder of them.
    validation_path: held-out rows; None holds out `validation_fraction`, by hash of the prompt.
    prompt_column: column of the prompt.
    answer_column: column of the known answer.
    prompt_tokens: room for a prompt; a longer one keeps its last tokens.
    answer_tokens: room for a known answer and its end; a longer one keeps its first tokens.
    tokenizer: {'name': plug-in of data/tokenizers, its knobs}; None is sentencepiece with its defaults.
    validation_fraction: part of the prompts kept for validation.
    bos: put the tokenizer's begin id before each prompt, where it has one.
    on_bad_data: 'skip' (and report) or 'fail' at the first row that cannot be read.
    max_bad_fraction: skipped rows allowed, as a fraction of all.

  Raises:
    ConfigError: a path that is not there, no room, or a tokenizer without an end. DataError: rows that cannot be read.
  """
  for name, value in (("prompt_tokens", prompt_tokens), ("answer_tokens", answer_tokens)):
    if value < 2:
      raise ConfigError(f"config.data.{name}", f"got {value}", accepted="a whole number from 2")
  source = QuestionFiles(path, validation_path, (prompt_column, answer_column), context.cache_dir)
  rules = Rules(tokenizer=tokenizer, validation_fraction=validation_fraction, split="documents", bos=False, eod=False,
                on_bad_data=on_bad_data, max_bad_fraction=max_bad_fraction)
  corpus = prepare(context, source, rules)
  made = corpus.tokenizer
  assert made is not None
  end = end_of_answers(made)
  sources: dict[str, Any] = {
      split: Questions([s for s in corpus.streams if s.split == split], (prompt_tokens, answer_tokens),
                       begin=made.begin_of_document if bos else None, end=end, pad=made.special.get("pad", end),
                       seed=context.seed, fingerprint=corpus.fingerprint, once=split == "validation")
      for split in ("train", "validation")}
  return Corpus(made, sources["train"], {"validation": sources["validation"]}, sources["train"].fingerprint,
                corpus.description, corpus.bad_report)
