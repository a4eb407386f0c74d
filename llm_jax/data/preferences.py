"""Preferences between completions, from files or made of Python's own prose.

Pairs have a prompt, a chosen and a rejected completion; unpaired rows a prompt, a completion and a label, which is what
KTO learns from. data/preference_texts.py says which forms of rows are read.
"""

from typing import Any, Literal

from llm_jax.core.errors import ConfigError
from llm_jax.data.corpus import Corpus, DataContext, Rules, prepare
from llm_jax.data.preference_rows import JudgedRows, PairRows
from llm_jax.data.preference_sources import Damage, Form, LibraryPassages, PreferenceFiles

ROWS = {"pairs": PairRows, "unpaired": JudgedRows}


def build(context: DataContext, *, path: str | None = None, validation_path: str | None = None, form: Form = "pairs",
          damage: Damage = "words", characters: int = 320, tokenizer: dict | None = None,
          validation_fraction: float = 0.05, bos: bool = True, eod: bool = True,
          on_bad_data: Literal["skip", "fail"] = "skip", max_bad_fraction: float = 0.01) -> Corpus:
  """Preferences, one pair or one judged completion a row.

  Args:
    path: a .jsonl, .jsonl.gz, .parquet or .csv file, or a folder of them; None: passages of Python's standard library,
      whose true continuation is preferred to a damaged one.
    validation_path: held-out rows; None holds out `validation_fraction`, by hash of the prompt.
    form: 'pairs' of (prompt, chosen, rejected, and margin if there is one), or 'unpaired' rows of (prompt, completion,
      label); a pair read as unpaired is two rows.
    damage: to a continuation of the embedded passages: 'words' or 'letters' in another order, or 'elsewhere', that of
      another passage.
    characters: of an embedded passage, of which a quarter is the prompt.
    tokenizer: {'name': plug-in of data/tokenizers, its knobs}; None is sentencepiece with its defaults.
    validation_fraction: part of the prompts kept for validation.
    bos: put the tokenizer's begin id before each prompt, where it has one.
    eod: put the tokenizer's end id after each completion, where it has one.
    on_bad_data: 'skip' (and report) or 'fail' at the first row that says no preference.
    max_bad_fraction: skipped rows allowed, as a fraction of all.

  Raises:
    ConfigError: a path that is not there, or passages of too few characters. DataError: rows that cannot be read.
  """
  if characters < 64:
    raise ConfigError("config.data.characters", f"got {characters}", accepted="a whole number from 64")
  source = LibraryPassages(form, damage, characters) if path is None else PreferenceFiles(
      path, validation_path, form, context.cache_dir)
  rules = Rules(tokenizer=tokenizer, validation_fraction=validation_fraction, split="documents", bos=False, eod=False,
                on_bad_data=on_bad_data, max_bad_fraction=max_bad_fraction)
  corpus = prepare(context, source, rules)
  assert corpus.tokenizer is not None
  made: dict[str, Any] = {
      split: ROWS[form]([s for s in corpus.streams if s.split == split], corpus.tokenizer, bos=bos, eod=eod,
                        fingerprint=corpus.fingerprint, seed=context.seed, once=split == "validation")
      for split in ("train", "validation")}
  return Corpus(corpus.tokenizer, made["train"], {"validation": made["validation"]}, made["train"].fingerprint,
                corpus.description, corpus.bad_report)
