"""Packing 'stream': rows go on where they ended, every window is served once, a flag says where a row starts."""

import json

import numpy as np
import pytest

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Plan
from llm_jax.data.corpus import DataContext

B, L = 3, 8
PLAN = Plan(B, L)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  folder = tmp_path_factory.mktemp("stream")
  lines = [json.dumps({"text": " ".join(str(i * 7 % 100) for i in range(n, n + 9))}) for n in range(60)]
  (folder / "lines.jsonl").write_text("\n".join(lines))
  def make(**knobs):
    spec = dict(name="text_folder", path=str(folder), packing="stream", tokenizer=dict(name="characters"),
                validation_fraction=0.2, split="tail", bos=False, eod=False) | knobs
    return plugins.bind("data", spec, "config.data")(DataContext(0, folder / "cache"))
  return make


@pytest.mark.parametrize("boundaries", [True, False])
def test_rows_continue_the_rows_of_the_last_step(corpus, boundaries):
  data = corpus(document_boundaries=boundaries).train
  stream = data.streams[0]
  steps = sum(data.windows(L).values()) // B
  batches = [data.take(step, PLAN) for step in range(steps + 1)]
  for b in range(B):
    row = np.concatenate([batch["tokens"][b] for batch in batches[:steps]])
    np.testing.assert_array_equal(row, stream.tokens[b * steps * L:(b + 1) * steps * L])
    goes_on = [int(batch["continues"][b]) for batch in batches]
    starts = (b * steps + np.arange(steps)) * L
    want = (np.arange(steps) > 0) & ~(np.isin(starts, stream.offsets) & boundaries)
    assert goes_on == [*want.astype(int), 0], "the last batch starts the next epoch"
  np.testing.assert_array_equal(batches[steps]["tokens"], batches[0]["tokens"])


def test_a_host_takes_its_own_rows(corpus):
  data = corpus().train
  whole, part = data.take(5, PLAN), data.take(5, PLAN, slice(1, 3))
  for name, array in part.items():
    np.testing.assert_array_equal(array, whole[name][1:3], err_msg=name)


def test_an_evaluation_pass_has_every_target_once_and_continues(corpus):
  data = corpus(document_boundaries=False).evals["validation"]
  batches = [data.take(step, PLAN) for step in range(data.batches(B, L))]
  assert sum(float(b["weights"].sum()) for b in batches) == data.streams[0].size - 1
  row = np.concatenate([b["tokens"][0] for b in batches])
  np.testing.assert_array_equal(row, data.streams[0].tokens[:len(row)])
  assert [b["continues"].tolist() for b in batches[:2]] == [[0] * B, [1] * B]


def test_what_picks_among_windows_is_refused(corpus):
  with pytest.raises(ConfigError, match="mixture"):
    corpus(mixture="equal")
  with pytest.raises(ConfigError, match="packing"):
    corpus().train.take(0, Plan(B, L, admit=0.5))


def test_words_are_the_most_frequent_and_come_back():
  recipe = plugins.bind("data/tokenizers", dict(name="words", vocab_size=5, special=("eod",)), "config.x")(None)
  tokenizer = recipe.train(["a b a\n", "a b c\n<unk> <unk> <unk> <unk>"])
  assert tokenizer.vocab_size == 5 and tokenizer.words == ["a", "\n", "b"] and tokenizer.special == dict(unk=3, eod=4)
  assert tokenizer.encode("  a c\nb <unk> ").tolist() == [0, 3, 1, 2, 3]
  assert tokenizer.decode([0, 3, 1, 2, 4]) == "a <unk>\nb"
  again = type(tokenizer)(tokenizer.words, ["eod"])
  assert again.fingerprint == tokenizer.fingerprint
