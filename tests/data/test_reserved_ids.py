"""What objectives ask of a tokenizer: ids that no text makes, and where words start."""

import numpy as np
import pytest

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.data import tokenizers

TEXT = "The cat's hat, naïve as 3 hats.\n\tA hat! "
WORDS = ["The", "cat", "'", "s", "hat", ",", "naïve", "as", "3", "hats", ".", "A", "hat", "!"]
KINDS = {"bytes": {}, "characters": {}, "sentencepiece": dict(vocab_size=300)}


def trained(kind: str, **knobs) -> tokenizers.Tokenizer:
  recipe = plugins.bind(tokenizers.ROOM, dict(name=kind, **KINDS[kind], **knobs), "config.data.tokenizer")(None)
  return recipe.train([TEXT * 50])


@pytest.mark.parametrize("kind", KINDS)
def test_sentinels_lie_on_top_and_change_no_other_id(kind, tmp_path):
  plain = trained(kind)
  more = trained(kind, sentinels=5) if kind != "sentencepiece" else plugins.bind(
      tokenizers.ROOM, dict(name=kind, vocab_size=305, sentinels=5), "t")(None).train([TEXT * 50])
  assert more.vocab_size == plain.vocab_size + 5
  assert more.sentinels == tuple(range(more.vocab_size - 1, plain.vocab_size - 1, -1)) and plain.sentinels == ()
  np.testing.assert_array_equal(more.encode(TEXT), plain.encode(TEXT))
  assert more.decode([*more.sentinels, *more.encode(TEXT)]) == TEXT
  assert more.token_bytes.shape == (more.vocab_size,) and more.fingerprint != plain.fingerprint
  more.save(tmp_path)
  again = tokenizers.load(tmp_path)
  assert (again.sentinels, again.vocab_size, again.fingerprint) == (more.sentinels, more.vocab_size, more.fingerprint)


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_found_in_tokens(kind):
  tokenizer = trained(kind, special=("eod", "mask")) if kind == "characters" else trained(kind)
  ids, edges = tokenizer.encode(TEXT), tokenizer.word_edges
  starts = edges[ids, 0] | np.concatenate([[True], edges[ids[:-1], 1]])
  pieces = [tokenizer.decode(part) for part in np.split(ids, np.flatnonzero(starts)[1:])]
  assert [p.strip() for p in pieces if p.strip()] == WORDS
  assert edges[[*tokenizer.special.values()]].all()


@pytest.mark.parametrize("kind", ["bytes", "characters"])
def test_a_role_comes_once(kind):
  with pytest.raises(ConfigError, match="'eod' is there twice"):
    trained(kind, special=("eod", "eod", "pad"))


@pytest.mark.parametrize("coverage", [0.0, 2.0])
def test_a_coverage_is_a_fraction(coverage):
  with pytest.raises(ConfigError, match="character_coverage"):
    trained("sentencepiece", character_coverage=coverage)


def test_negative_sentinels_are_refused():
  with pytest.raises(ConfigError, match="sentinels"):
    trained("bytes", sentinels=-1)
