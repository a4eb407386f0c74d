"""TensorFlow Datasets by name, without TensorFlow: prepared as ArrayRecord, read through `data_source`.

With `manual_dir` a builder finds its downloads in a folder, under their registered file names, and no network is
needed; TFDS still checks their checksums. nanoGPT's split of tiny Shakespeare (the last 10 % validates) is
`validation_split='validation+test'`.
"""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any, Literal

from llm_jax.core.errors import ConfigError, DataError, nearest_name
from llm_jax.data.corpus import Corpus, DataContext, MixtureKnob, Rules, prepare
from llm_jax.data.documents import BadRow, Document, Split
from llm_jax.data.fingerprint import bytes_digest, digest, file_digests
from llm_jax.data.packing import Packing
from llm_jax.data.splitting import SplitMode
from llm_jax.data.tfds_builder import prepared_builder

EXAMPLES_IN_FINGERPRINT = 50


def build(context: DataContext, *, dataset: str, data_dir: str | None = None, manual_dir: str | None = None,
          text_column: str = "text", train_split: str = "train", validation_split: str | None = "validation",
          tokenizer: dict | None = None, mixture: MixtureKnob = "proportional", validation_fraction: float = 0.05,
          split: SplitMode = "auto", packing: Packing = "concat", document_boundaries: bool = True, bos: bool = True,
          eod: bool = True, deduplicate: bool = False, on_bad_data: Literal["skip", "fail"] = "skip",
          max_bad_fraction: float = 0.01) -> Corpus:
  """A corpus from a TFDS dataset.

  Args:
    dataset: TFDS name, with config and version if wanted: 'tiny_shakespeare', 'lm1b', 'wikipedia/20230601.en'.
    data_dir: where prepared datasets are; None keeps them in the cache folder, by the content of `manual_dir`.
    manual_dir: folder with the builder's downloads under their registered names; then nothing is downloaded, and one
      that is not there is an error.
    text_column: feature that holds the text; a dot goes into nested features.
    train_split: split to train on; names joined by + are read one after the other.
    validation_split: the same for validation, e.g. 'validation+test'; None splits off `train_split`.
    tokenizer: {'name': plug-in of data/tokenizers, its knobs}; None is sentencepiece with its defaults.
    mixture: weights of domains; a dataset is one domain, so that only 'proportional' and 'equal' make sense.
    validation_fraction: part kept for validation where `validation_split` is None.
    split: how that part is chosen: 'documents' (by hash), 'tail', or 'auto': by documents if enough.
    packing: 'concat' (full rows across documents), 'best_fit' or 'first_fit' (whole documents), 'pad' (one per row),
      'stream' (each row goes on where it ended in the step before: models that carry a state then do).
    document_boundaries: no target across documents and positions restart; False is one plain stream.
    bos: put the tokenizer's begin id before each document, where it has one.
    eod: put the tokenizer's end id after each document, where it has one.
    deduplicate: leave out documents whose exact text came before.
    on_bad_data: 'skip' reports rows that cannot be read and goes on; 'fail' stops at the first.
    max_bad_fraction: part of the rows that may be skipped.
  """
  rules = Rules(tokenizer=tokenizer, mixture=mixture, validation_fraction=validation_fraction, split=split,
                packing=packing, document_boundaries=document_boundaries, bos=bos, eod=eod, deduplicate=deduplicate,
                on_bad_data=on_bad_data, max_bad_fraction=max_bad_fraction)
  for key, given in (("data_dir", data_dir), ("manual_dir", manual_dir)):
    if given == "":  # which pathlib takes for the folder that we are in
      raise ConfigError(f"config.data.{key}", "got ''", accepted="a folder")
  if manual_dir is not None and not pathlib.Path(manual_dir).is_dir():
    raise ConfigError("config.data.manual_dir", f"no such folder: {manual_dir}")
  builder = prepared_builder(dataset, data_dir or _own_data_dir(context.cache_dir, manual_dir), manual_dir)
  parts: list[tuple[str, Split | None]] = [(name, None) for name in train_split.split("+")]
  if validation_split is not None:
    parts = [(name, "train") for name in train_split.split("+")]
    parts += [(name, "validation") for name in validation_split.split("+")]
  return prepare(context, TfdsText(builder, parts, text_column), rules)


class TfdsText:
  """A DocumentSource over splits of a prepared builder."""

  def __init__(self, builder: Any, parts: list[tuple[str, Split | None]], column: str):
    self._builder, self._parts, self._column = builder, parts, column
    names = list(builder.info.splits)
    for name, _ in parts:
      if name not in names:
        raise ConfigError("config.data.train_split or validation_split", f"{builder.name} has no split {name!r}",
                          accepted=", ".join(names) + "; validation_split=None splits off the training data",
                          nearest=nearest_name(name, names))
    self.description = f"{builder.info.full_name} ({' '.join(name for name, _ in parts)}) from TFDS"

  @functools.cached_property
  def fingerprint(self) -> str:
    """Of version, sizes and the first examples: reading everything would take minutes at 50 us a record."""
    splits = self._builder.info.splits
    rows = [(name, split, splits[name].num_examples, splits[name].num_bytes,
             [bytes_digest(repr(v).encode()) for v in self._values(name, EXAMPLES_IN_FINGERPRINT)])
            for name, split in self._parts]
    return digest("tfds", 1, self._builder.info.full_name, self._column, rows)

  def documents(self) -> Iterator[Document | BadRow]:
    for name, split in self._parts:
      for i, value in enumerate(self._values(name, None), 1):
        where = f"{self._builder.name}/{name}:{i}"
        try:
          text = value.decode() if isinstance(value, bytes) else value
        except UnicodeDecodeError as e:
          yield BadRow(where, f"not valid UTF-8: byte 0x{value[e.start]:02x} at {e.start}")
          continue
        if isinstance(text, str):
          yield Document(text, self._builder.name, where, split=split)
        else:
          yield BadRow(where, f"feature {self._column!r} is not text but {type(text).__name__}")

  def _values(self, name: str, limit: int | None) -> Iterator[Any]:
    source = self._builder.as_data_source(split=name)
    for i in range(len(source) if limit is None else min(limit, len(source))):
      value = source[i]
      for key in self._column.split("."):
        if not isinstance(value, dict) or key not in value:
          raise DataError(f"{self._builder.name}/{name}:{i + 1}: no feature {self._column!r}; there are "
                          f"{', '.join(map(repr, self._builder.info.features))}")
        value = value[key]
      yield value


def _own_data_dir(cache_dir: pathlib.Path, manual_dir: str | None) -> str:
  """A folder of the cache; TFDS knows a dataset by name and version only, so other downloads need another folder."""
  files = sorted(p for p in pathlib.Path(manual_dir).rglob("*") if p.is_file()) if manual_dir is not None else []
  digests = file_digests(files, cache_dir)
  return str(cache_dir / f"tfds-{digest([(f.name, digests[f]) for f in files])[:16]}")
