import json
import pathlib

import numpy as np
import pytest

from llm_jax.data.corpus import DataContext

WORDS = ["the", "a", "model", "reads", "text", "and", "writes", "more", "until", "loss", "falls", "to", "zero"]


def make_texts(count: int, seed: int = 0) -> list[str]:
  """Different texts of 3 to 60 words, the same for the same seed."""
  generator = np.random.default_rng(seed)
  return [f"{i} " + " ".join(generator.choice(WORDS, generator.integers(3, 60))) + "\n" for i in range(count)]


@pytest.fixture
def context(tmp_path: pathlib.Path) -> DataContext:
  return DataContext(seed=0, cache_dir=tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  """Two domains: `a`, a .jsonl of 120 documents, and `b`, 40 .txt files."""
  root = tmp_path / "texts"
  (root / "a").mkdir(parents=True)
  (root / "b").mkdir()
  (root / "a" / "rows.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in make_texts(120)))
  for i, text in enumerate(make_texts(40, seed=1)):
    (root / "b" / f"{i:02d}.txt").write_text(text)
  return root
