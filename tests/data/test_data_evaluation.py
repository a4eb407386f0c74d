"""An evaluation pass scores every target exactly once, and knows its bytes exactly."""

import numpy as np
import pytest
import tokenizers

from llm_jax.core import plugins
from llm_jax.core.types import Plan
from llm_jax.data import text_folder
from llm_jax.data.windows import EvaluationSource


def build(context, folder, **knobs):
  return text_folder.build(context, path=str(folder), validation_fraction=0.3, **knobs)


def targets_of(source, batch, length):
  taken = []
  for step in range(source.batches(batch, length)):
    b = source.take(step, Plan(batch, length))
    taken += b["targets"][b["weights"] > 0].tolist()
    assert b["tokens"].shape == (batch, length)
  return taken


@pytest.mark.parametrize("batch, length", [(4, 32), (3, 50), (7, 1000), (1, 1)])
def test_a_pass_scores_every_token_once_whatever_the_shape(context, folder, batch, length):
  corpus = build(context, folder, tokenizer={"name": "bytes"})
  source = corpus.evals["validation"]
  expected = []
  for stream in source.streams:
    first = np.zeros(stream.size, bool)
    first[stream.offsets[:-1]] = True
    expected += stream.tokens[~first].tolist()
  assert sorted(targets_of(source, batch, length)) == sorted(expected)
  with pytest.raises(IndexError):
    source.take(source.batches(batch, length), Plan(batch, length))


def test_domains_add_up_to_the_whole(context, folder):
  evals = build(context, folder, tokenizer={"name": "bytes"}).evals
  assert set(evals) == {"validation", "validation/a", "validation/b"}
  parts = [targets_of(evals[f"validation/{d}"], 4, 32) for d in "ab"]
  assert sorted(parts[0] + parts[1]) == sorted(targets_of(evals["validation"], 4, 32))


@pytest.mark.parametrize("tokenizer", [{"name": "bytes"}, {"name": "characters"},
                                       {"name": "sentencepiece", "vocab_size": 320}])
@pytest.mark.parametrize("boundaries", [True, False])
def test_bytes_per_token_is_exact(context, folder, tokenizer, boundaries):
  corpus = build(context, folder, tokenizer=tokenizer, document_boundaries=boundaries)
  source = corpus.evals["validation"]
  total = weight = 0
  for step in range(source.batches(4, 32)):
    b = source.take(step, Plan(4, 32))
    total, weight = total + source.target_bytes(b), weight + b["weights"].sum()
  assert source.bytes_per_token == pytest.approx(total / weight, abs=1e-12)
  if corpus.tokenizer.begin_of_document is not None:  # then every byte of text is a target
    assert total == sum(s.text_bytes for s in source.streams)


@pytest.mark.parametrize("boundaries", [True, False])
@pytest.mark.parametrize("mixture", ["proportional", {"a": 3.0, "b": 1.0}])
def test_training_and_evaluation_count_the_bytes_of_a_target_alike(context, folder, boundaries, mixture):
  """The training's own, of the shares of its mixture; counted from a pass over the same streams."""
  corpus = build(context, folder, tokenizer={"name": "bytes"}, document_boundaries=boundaries, mixture=mixture)
  kept = [s for s in corpus.streams if s.split == "train"]
  counted = lambda streams: EvaluationSource(streams, fingerprint="", token_bytes=corpus.tokenizer.token_bytes,
                                             document_boundaries=boundaries).bytes_per_token
  wanted = counted(kept) if mixture == "proportional" else sum(
      mixture[s.domain] / 4 * counted([s]) for s in kept)
  assert corpus.bytes_per_token == pytest.approx(wanted, rel=1e-9)


def test_an_end_of_word_mark_is_a_space(context, tmp_path):
  """GPT-1's way: 'the cat sat' is three pieces, 'the</w>' among them, and eleven bytes."""
  words = ["the", "cat", "sat"]
  parts = {"t", "h", "e", "c", "a", "s", "t</w>", "e</w>"}
  merges = [("t", "h"), ("th", "e</w>"), ("c", "a"), ("ca", "t</w>"), ("s", "a"), ("sa", "t</w>")]
  vocabulary = {piece: i for i, piece in enumerate([*sorted(parts), *(a + b for a, b in merges)])}
  model = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))
  model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  model.decoder = tokenizers.decoders.BPEDecoder(suffix="</w>")
  (tmp_path / "vocabulary").mkdir()
  model.save(str(tmp_path / "vocabulary" / "tokenizer.json"))
  made = plugins.bind("data/tokenizers", dict(name="hub", path=str(tmp_path / "vocabulary")), "t")(None).train(())
  text = " ".join(words)
  assert len(made.encode(text)) == 3
  assert made.token_bytes[made.encode(text)].sum() == len(text) + 1  # the last word's mark stands for no space
  (tmp_path / "texts").mkdir()
  (tmp_path / "texts" / "a.txt").write_text(" ".join(words * 100))
  corpus = build(context, tmp_path / "texts", tokenizer=dict(name="hub", path=str(tmp_path / "vocabulary")))
  assert corpus.evals["validation"].bytes_per_token == pytest.approx(4, abs=0.05)


def test_hosts_share_a_pass(context, folder):
  source = build(context, folder, tokenizer={"name": "bytes"}).evals["validation"]
  plan = Plan(6, 40)
  last = source.batches(6, 40) - 1
  for step in (0, last):
    whole = source.take(step, plan)
    parts = [source.take(step, plan, rows) for rows in (slice(0, 3), slice(3, 6))]
    assert all((np.concatenate([p[k] for p in parts]) == whole[k]).all() for k in whole)


def test_the_pass_is_the_same_for_every_seed(context, folder):
  source = build(context, folder, tokenizer={"name": "bytes"}).evals["validation"]
  other = build(type(context)(7, context.cache_dir), folder, tokenizer={"name": "bytes"}).evals["validation"]
  assert (source.take(0, Plan(4, 32))["tokens"] == other.take(0, Plan(4, 32))["tokens"]).all()
