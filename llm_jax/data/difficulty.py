"""Rows ranked by difficulty: scored once, kept by fingerprint, served to curricula as the order of the windows.

A folder of scores holds, for each length and domain, one score per window and the windows sorted from easy to hard, and
in scores.json what they were made from: scorer with its knobs, tokenizer, data. Any other data, tokenizer or scorer is
an error at load, never a warning: a curriculum over the wrong scores looks like one that does not work.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from llm_jax.core.errors import DataError
from llm_jax.data import sealed_folder
from llm_jax.data.admission import Rankable
from llm_jax.data.fingerprint import digest
from llm_jax.data.permutation import permute
from llm_jax.data.scorers import Score
from llm_jax.data.tokenizers import Tokenizer

INDEX = "scores.json"
FORMAT = 1
ROWS = 256  # scored at once


def identity(source: Rankable, tokenizer: Tokenizer | None, scorer: Mapping[str, Any]) -> dict[str, Any]:
  """What scores depend on. tokenizer: None if the data are no text."""
  return {"format": FORMAT, "scorer": dict(scorer), "tokenizer": tokenizer and tokenizer.fingerprint,
          "data": source.content}


def write(folder: pathlib.Path, source: Rankable, score: Score, made_from: Mapping[str, Any],
          lengths: Iterable[int]) -> None:
  """Scores every window of these lengths into `folder`.

  Raises:
    DataError: a score that is not a finite number.
  """
  tables = []
  for length in sorted(set(lengths)):
    for d, (domain, count) in enumerate(source.windows(length).items()):
      scores = np.empty(count, np.float64)
      for start in range(0, count, ROWS):
        windows = np.arange(start, min(start + ROWS, count))
        scores[windows] = score(source.window_rows(domain, windows, length))
      if not np.isfinite(scores).all():
        raise DataError(f"{made_from['scorer']} gives window {np.flatnonzero(~np.isfinite(scores))[0]} of {domain} "
                        "a score that is not finite")
      np.save(folder / f"{length}.{d}.scores.npy", scores)
      np.save(folder / f"{length}.{d}.order.npy", np.argsort(scores, kind="stable"))
      tables.append({"length": length, "domain": domain, "windows": count, "quantiles": _quantiles(scores)})
  text = json.dumps({"made_from": dict(made_from), "domains": list(source.domains), "tables": tables}, indent=1)
  (folder / INDEX).write_text(text)


def _quantiles(scores: np.ndarray) -> list[float]:
  """Least, quartiles and most."""
  return np.quantile(scores, [0, 0.25, 0.5, 0.75, 1]).tolist() if len(scores) else []


def cached(cache_dir: pathlib.Path, source: Rankable, make_score: Any, made_from: Mapping[str, Any],
           lengths: Iterable[int]) -> pathlib.Path:
  """The folder of these scores in the cache, made if it is not there. make_score: () -> Score."""
  lengths = sorted(set(lengths))
  name = f"scores-{digest(made_from, lengths)[:16]}"
  return sealed_folder.open_or_build(cache_dir / name,
                                     lambda folder: write(folder, source, make_score(), made_from, lengths))


def check(folder: pathlib.Path, made_from: Mapping[str, Any], lengths: Iterable[int]) -> None:
  """Raises DataError if the folder's scores are not of this scorer, tokenizer and data, or lack a length."""
  found = read_index(folder)
  for part, expected in made_from.items():
    given = found["made_from"].get(part)
    if given != expected:
      raise DataError(f"{folder}: scores of another {part} (they have {given!r}, this run {expected!r}); score again "
                      "with python -m llm_jax.score")
  missing = set(lengths) - {t["length"] for t in found["tables"]}
  if missing:
    raise DataError(f"{folder}: no scores for rows of {min(missing)} tokens, which the curriculum asks for")


def read_index(folder: pathlib.Path) -> dict[str, Any]:
  """scores.json of a folder.

  Raises:
    DataError: there is none, or it is damaged.
  """
  try:
    return json.loads((folder / INDEX).read_text("utf-8"))
  except (OSError, ValueError) as e:
    raise DataError(f"{folder}: no scores here ({e}); python -m llm_jax.score writes them") from None


@dataclasses.dataclass(frozen=True)
class Ranking:
  """(domain, length) -> windows from first to last admitted and their ranks: an Order. Pickles by path.

  order: 'easy_first', 'hard_first' or 'random'; seed: of the random one.
  """

  folder: str
  domains: tuple[str, ...]
  order: str
  seed: int

  def __call__(self, domain: str, length: int) -> tuple[np.ndarray, np.ndarray]:
    return _ranked(self, domain, length)


@functools.lru_cache(maxsize=64)
def _ranked(ranking: Ranking, domain: str, length: int) -> tuple[np.ndarray, np.ndarray]:
  stem = pathlib.Path(ranking.folder) / f"{length}.{ranking.domains.index(domain)}"
  scores, order = np.load(f"{stem}.scores.npy"), np.load(f"{stem}.order.npy")
  if ranking.order == "hard_first":
    scores, order = -scores, order[::-1]
  if ranking.order == "random":  # the same number of rows at every step, which ones has nothing to do with difficulty
    ranks = ranks_of(scores[order])
    return permute(np.arange(len(order)), len(order), f"{ranking.seed}/random-pacing/{domain}/{length}"), ranks
  return order, ranks_of(scores[order])


def ranks_of(ascending: np.ndarray) -> np.ndarray:
  """(n,) sorted scores -> the share of all that are not larger: equal scores have the same rank, the last has 1."""
  return np.searchsorted(ascending, ascending, side="right") / max(len(ascending), 1)
