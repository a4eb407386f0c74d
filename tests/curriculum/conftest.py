import pathlib

import numpy as np
import pytest

from llm_jax.data import text_folder
from llm_jax.data.corpus import DataContext

WORDS = ["the", "a", "of", "to", "and", "light", "water", "stone", "river", "mountain", "anarchic", "quixotic",
         "xylophone", "zephyr", "jackdaw"]


def text(random, words):
  share = random.dirichlet(np.full(len(WORDS), 0.3))
  return " ".join(random.choice(WORDS, words, p=share)) + ".\n"


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> pathlib.Path:
  """Two domains of documents whose words are rare to a different degree."""
  root, random = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
  for domain, count in (("a", 60), ("b", 30)):
    (root / domain).mkdir()
    for i in range(count):
      (root / domain / f"{i:03d}.txt").write_text(text(random, int(random.integers(10, 120))))
  return root


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.mktemp("cache")


@pytest.fixture
def corpus(folder, cache_dir):
  """corpus(seed=0, **knobs of text_folder)."""
  def build(seed=0, **knobs):
    context = DataContext(seed=seed, cache_dir=cache_dir)
    return text_folder.build(context, path=str(folder), tokenizer={"name": "bytes"},
                             **{"validation_fraction": 0.1, **knobs})
  return build
