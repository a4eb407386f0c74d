import json
import pathlib

import pytest
from made_texts import make_texts

from llm_jax.data.corpus import DataContext


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
