"""Text whose rows get further fields, found in their own words: phrases (phrases.py), entities (knowledge_text.py).

Wraps another data plug-in. A row's tokens are spelled out and searched, so that any source and any tokenizer serves and
a batch stays a function of (seed, step, plan).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Plan
from llm_jax.data.corpus import Corpus, DataContext
from llm_jax.data.fingerprint import digest
from llm_jax.data.tokenizers import Tokenizer


class Spelling:
  """Rows of tokens as text; a special token is a new line, which no word runs across."""

  def __init__(self, tokenizer: Tokenizer):
    reserved = set(tokenizer.reserved)
    self._spelled = ["\n" if i in reserved else tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]

  def __call__(self, tokens_L: Sequence[int] | np.ndarray) -> tuple[str, np.ndarray]:
    """The text and (L,) where each token ends in it; character c is in token `searchsorted(ends, c, side='right')`."""
    parts = [self._spelled[i] for i in np.asarray(tokens_L).tolist()]
    return "".join(parts), np.cumsum([len(p) for p in parts])


@dataclasses.dataclass(frozen=True)
class MarkedText:
  """A DataSource, or one pass of evaluation, with a marker's fields beside the text's."""

  text: Any
  marker: Callable[[Batch], Batch]
  fields: Mapping[str, str]
  fingerprint: str

  @property
  def boundaries(self) -> bool:
    return bool(getattr(self.text, "boundaries", True))

  @property
  def domains(self) -> tuple[str, ...]:
    return tuple(getattr(self.text, "domains", ()))

  @property
  def bytes_per_token(self) -> float | None:
    return self.text.bytes_per_token

  def batches(self, batch: int, length: int) -> int:
    return int(self.text.batches(batch, length))

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch:
    """The text's rows, marked."""
    return self.marker(self.text.take(step, plan, rows))


def text_of(context: DataContext, text: Mapping[str, Any]) -> tuple[Corpus, Tokenizer]:
  """The corpus of another plug-in, and its tokenizer.

  Raises:
    ConfigError: it serves no text.
  """
  corpus: Corpus = plugins.bind("data", text, "config.data.text")(context)
  if corpus.tokenizer is None:
    raise ConfigError("config.data.text", f"{text.get('name')!r} serves no text", accepted="a plug-in that serves text")
  return corpus, corpus.tokenizer


def marked(corpus: Corpus, marker: Callable[[Batch], Batch], fields: Mapping[str, str], key: str, told: str) -> Corpus:
  """The corpus with the marker's fields in every batch. key: changes with what is marked; told: a line for the log."""
  def of(source: Any) -> MarkedText:
    return MarkedText(source, marker, {**source.fields, **fields}, digest(source.fingerprint, key))
  return dataclasses.replace(corpus, train=of(corpus.train), fingerprint=digest(corpus.fingerprint, key),
                             evals={name: of(source) for name, source in corpus.evals.items()},
                             description=f"{corpus.description}\n{told}")
