"""The one path from documents to sources: split, tokenizer, token store, training source, evaluation sources.

Every data plug-in reads documents in its own way and ends with `prepare(context, source, rules)`. What is slow is done
once and kept under the cache folder by fingerprint; a second run of the same data starts in well under a second.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from absl import logging

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.types import DataSource
from llm_jax.data import sealed_folder, token_store, tokenizers
from llm_jax.data.continued import ContinuedSource
from llm_jax.data.documents import Document, DocumentSource, Screen, Split
from llm_jax.data.fingerprint import digest
from llm_jax.data.packing import Packing
from llm_jax.data.splitting import SplitMode, split_documents
from llm_jax.data.token_store import Stream
from llm_jax.data.windows import EvaluationSource, TrainSource, bytes_per_target

FORMAT = 1  # of the token store; a new number makes every store anew
MixtureKnob = dict[str, float] | Literal["proportional", "equal"]
TOKENIZER = {"name": "sentencepiece"}


@dataclasses.dataclass(frozen=True)
class DataContext:
  """What a data plug-in is handed. seed: of the order of training windows; cache_dir: for prepared data."""

  seed: int
  cache_dir: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Rules:
  """The knobs that all data plug-ins share; each plug-in's `build` documents them.

  Raises:
    ConfigError: a fraction outside its range.
  """

  tokenizer: Mapping[str, Any] | None = None
  mixture: MixtureKnob = "proportional"
  validation_fraction: float = 0.05
  split: SplitMode = "auto"
  packing: Packing = "concat"
  document_boundaries: bool = True
  bos: bool = True
  eod: bool = True
  deduplicate: bool = False
  on_bad_data: Literal["skip", "fail"] = "skip"
  max_bad_fraction: float = 0.01

  def __post_init__(self) -> None:
    if not 0 < self.validation_fraction <= 0.5:
      raise ConfigError("config.data.validation_fraction", f"got {self.validation_fraction:g}",
                        accepted="a fraction above 0, at most 0.5")
    if not 0 <= self.max_bad_fraction <= 1:
      raise ConfigError("config.data.max_bad_fraction", f"got {self.max_bad_fraction:g}", accepted="between 0 and 1")

  @property
  def reading(self) -> dict[str, Any]:
    """The rules that decide which text is in which split."""
    names = ("validation_fraction", "split", "deduplicate", "on_bad_data", "max_bad_fraction")
    return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class HeldOutTasks:
  """Held-out few-shot tasks for evaluation after training (data/episodes.py, data/few_shot.py). shots: support examples
  of each class or task; gradient: episodes to adapt on; in_context: prompts, None if the examples are no tokens."""

  shots: int
  gradient: Any
  in_context: Any = None


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Prepared data.

  tokenizer: None if the data are no text; train: serves batches for ever; evals: one exact pass each, 'validation' and,
  with several domains, 'validation/<domain>'; fingerprint: changes when data, tokenizer or rules change, not with the
  seed; description: text of a few lines: what, and documents, tokens and bytes by split and domain; bad_report:
  file:line and reason of skipped rows, or None; few_shot: held-out tasks, if these are data for few-shot learning; ids:
  how many token ids there are in data that are tokens and no text.
  """

  tokenizer: tokenizers.Tokenizer | None
  train: DataSource
  evals: Mapping[str, Any]
  fingerprint: str
  description: str
  bad_report: pathlib.Path | None
  streams: tuple[Stream, ...] = ()
  few_shot: HeldOutTasks | None = None
  ids: int = 0

  @property
  def vocab_size(self) -> int:
    """V: all token ids are in [0, V); 0 if the data are no tokens."""
    return self.ids if self.tokenizer is None else self.tokenizer.vocab_size

  @functools.cached_property
  def bytes_per_token(self) -> float | None:
    """UTF-8 bytes per training target under the configured mixture; None if the data are no running text."""
    streams = [s for s in self.streams if s.split == "train"]
    if not streams or self.tokenizer is None:
      return None
    boundaries, mixture = getattr(self.train, "boundaries", True), getattr(self.train, "mixture", None)
    of = functools.partial(bytes_per_target, token_bytes=self.tokenizer.token_bytes, boundaries=boundaries)
    if mixture is None:
      return of(streams)
    return sum(mixture.get(s.domain, 0.0) * of([s]) for s in streams) / sum(mixture.values())


def prepare(context: DataContext, source: DocumentSource, rules: Rules) -> Corpus:
  """The corpus of a source under some rules.

  Raises:
    DataError: bad rows beyond the policy, no documents, an empty split, a cache folder that cannot be written.
    ConfigError: knobs of tokenizer, mixture or packing that do not fit.
  """
  report = context.cache_dir / f"bad_data-{digest(source.fingerprint, rules.reading)[:16]}.txt"
  read = functools.partial(_split_documents, source, rules, report)
  spec = dict(rules.tokenizer or TOKENIZER)
  recipe = plugins.bind(tokenizers.ROOM, spec, "config.data.tokenizer")(context)
  tokenizer = _tokenizer(context.cache_dir, source, rules, recipe, read)

  key = digest(FORMAT, source.fingerprint, tokenizer.fingerprint, rules.reading, rules.bos, rules.eod)

  def build(folder: pathlib.Path) -> None:
    logging.info("tokenising %s", source.description)
    token_store.write(folder, read(), tokenizer, bos=rules.bos, eod=rules.eod)

  streams = token_store.read(sealed_folder.open_or_build(context.cache_dir / f"tokens-{key[:16]}", build))
  return _serve(context, source, rules, tokenizer, streams, key, report if report.exists() else None)


def _split_documents(source: DocumentSource, rules: Rules, report: pathlib.Path) -> Iterator[tuple[Split, Document]]:
  def screened() -> Iterator[Document]:
    return Screen(rules.on_bad_data, rules.max_bad_fraction, rules.deduplicate, report).read(source)

  return split_documents(screened, rules.split, rules.validation_fraction)


def _tokenizer(cache_dir: pathlib.Path, source: DocumentSource, rules: Rules, recipe: tokenizers.Recipe,
               read: Any) -> tokenizers.Tokenizer:
  """The trained tokenizer; found again by what it was trained on."""
  if recipe.needs == "nothing":
    return recipe.train(())
  folder = cache_dir / f"tokenizer-{digest(source.fingerprint, rules.reading, recipe.key)[:16]}"

  def build(temporary: pathlib.Path) -> None:
    logging.info("training the tokenizer on %s", source.description)
    texts = (d.text for split, d in read() if split == "train" or recipe.needs == "all")
    recipe.train(texts).save(temporary)

  return tokenizers.load(sealed_folder.open_or_build(folder, build))


def _serve(context: DataContext, source: DocumentSource, rules: Rules, tokenizer: tokenizers.Tokenizer,
           streams: list[Stream], key: str, report: pathlib.Path | None) -> Corpus:
  train = [s for s in streams if s.split == "train"]
  validation = [s for s in streams if s.split == "validation" and s.size > 1]
  for name, part in (("training", train), ("validation", validation)):
    if not part:
      raise DataError(f"the {name} split of {source.description} is empty: give more data or change "
                      "config.data.validation_fraction or config.data.split")
  named = {"proportional": None, "equal": {s.domain: 1.0 for s in train}}
  mixture = named[rules.mixture] if isinstance(rules.mixture, str) else rules.mixture
  pad = tokenizer.special.get("pad", 0)
  continued = rules.packing == "stream"
  evaluation = functools.partial(EvaluationSource, fingerprint=key, token_bytes=tokenizer.token_bytes,
                                 document_boundaries=rules.document_boundaries, pad=pad, continued=continued)
  evals = {"validation": evaluation(validation)}
  if len(validation) > 1:
    evals |= {f"validation/{s.domain}": evaluation([s]) for s in validation}
  serving: Any = _continued(train, rules, key, pad, source.description) if continued else TrainSource(
      train, fingerprint=key, seed=context.seed, packing=rules.packing, mixture=mixture,
      document_boundaries=rules.document_boundaries, pad=pad, what=source.description)
  description = describe(source.description, tokenizer, streams, report)
  return Corpus(tokenizer, serving, evals, serving.fingerprint, description, report, tuple(streams))


def _continued(train: list[Stream], rules: Rules, key: str, pad: int, what: str) -> ContinuedSource:
  if rules.mixture != "proportional":
    raise ConfigError("config.data.mixture", f"{rules.mixture!r} picks among windows that packing='stream' serves in "
                      "their order", accepted="'proportional', or another packing")
  return ContinuedSource(train, fingerprint=key, document_boundaries=rules.document_boundaries, pad=pad, what=what)


def describe(what: str, tokenizer: tokenizers.Tokenizer, streams: list[Stream], report: pathlib.Path | None) -> str:
  """A few lines for the log: the text, the tokenizer, and the size of each split and domain."""
  lines = [what, f"tokenizer {tokenizer.kind}, {tokenizer.vocab_size} ids, {tokenizer.fingerprint[:8]}"]
  lines += [f"{s.split + '/' + s.domain:<24} {s.documents:>9,} documents {s.size:>13,} tokens {s.text_bytes:>14,} bytes"
            f" {s.text_bytes / s.size:5.2f} bytes/token" for s in streams]
  return "\n".join(lines + ([f"bad rows left out: {report}"] if report else []))
