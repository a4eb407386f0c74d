"""Phrases: their score, their places in tokens, and that masking takes them whole."""

import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Plan
from llm_jax.data import collocations, phrases
from llm_jax.data.corpus import DataContext

TEXT = "the house of lords met and the house of commons met . " * 3
KNOWN = [("house", "of", "commons"), ("of", "lords"), ("met",)]


def test_pairs_above_the_threshold_are_phrases():
  random = np.random.default_rng(0)
  words = [f"w{i}" for i in range(50)]
  texts = [" ".join(random.choice(words, 200)) for _ in range(20)]
  texts = [t.replace("w1 ", "new york ").replace("w2 ", "san juan capistrano beach ") for t in texts]
  found = collocations.learn(texts, threshold=20.0, discount=5)
  assert ("new", "york") in found and ("san", "juan", "capistrano", "beach") in found
  assert all(p[0] in ("new", "san", "juan", "capistrano") for p in found)
  assert collocations.learn(texts, threshold=1e9, discount=5) == []
  # score(new york) = (count - discount) / (count * count) * words
  count = sum(t.count("new york") for t in texts)
  words_in_all = sum(len(t.split()) for t in texts)
  score = (count - 5) / count**2 * words_in_all
  assert ("new", "york") in collocations.learn(texts, threshold=score * 0.999, discount=5, passes=1)
  assert ("new", "york") not in collocations.learn(texts, threshold=score * 1.001, discount=5, passes=1)


def test_the_longest_phrase_from_the_left_is_taken():
  found = [TEXT[a:b] for a, b in collocations.spans(TEXT, collocations.index(KNOWN))]
  assert found == ["of lords", "met", "house of commons", "met"] * 3


@pytest.fixture
def corpus(tmp_path):
  (tmp_path / "text").mkdir()
  (tmp_path / "text/a.txt").write_text(TEXT * 40)
  (tmp_path / "lexicon.txt").write_text("\n".join(" ".join(p) for p in KNOWN) + "\n\n")
  def build(tokenizer="bytes", **knobs):
    text = dict(name="text_folder", path=str(tmp_path / "text"), tokenizer=dict(name=tokenizer))
    return phrases.build(DataContext(0, tmp_path / "cache"), text=text, **knobs)
  return build


@pytest.mark.parametrize("tokenizer", ["bytes", "characters"])
def test_every_token_of_a_phrase_has_its_number(corpus, tokenizer, tmp_path):
  made = corpus(tokenizer, lexicon=str(tmp_path / "lexicon.txt"))
  for source in (made.train, made.evals["validation"]):
    batch = source.take(0, Plan(4, 64))
    assert batch["phrase_ids"].shape == (4, 64) and "phrase_ids" in source.fields
    for tokens, ids in zip(batch["tokens"], batch["phrase_ids"]):
      found = [made.tokenizer.decode(tokens[ids == n]) for n in range(1, ids.max() + 1)]
      assert found and set(found[1:-1]) <= {" ".join(p) for p in KNOWN}
  assert made.fingerprint != corpus(tokenizer).fingerprint


def test_learned_phrases_are_kept_and_in_the_fingerprint(corpus, monkeypatch):
  first = corpus(threshold=1.5)
  assert "phrases" in first.description
  monkeypatch.setattr(collocations, "learn", None)
  again = corpus(threshold=1.5)
  assert again.fingerprint == first.fingerprint == again.fingerprint
  np.testing.assert_array_equal(again.train.take(3, Plan(2, 64))["phrase_ids"],
                                first.train.take(3, Plan(2, 64))["phrase_ids"])


def test_what_cannot_be_is_refused(corpus):
  with pytest.raises(ConfigError, match="lexicon"):
    corpus(lexicon="/nowhere")
  with pytest.raises(ConfigError, match="threshold"):
    corpus(threshold=0.0)
