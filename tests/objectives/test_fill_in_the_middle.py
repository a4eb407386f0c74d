"""Fill in the middle: the rearranged row is the text, cut in three, in the published order."""

import jax
import numpy as np
import pytest
from text_rows_fixture import batch, run, table, tokenizer

from llm_jax.core.errors import ConfigError
from llm_jax.objectives import fill_in_the_middle

TOKENS = tokenizer(sentinels=3)
PRE, SUF, MID = TOKENS.sentinels
EOD = TOKENS.special["eod"]


def rearranged(rows: dict, key=None, **knobs) -> dict:
  objective = fill_in_the_middle.build(**knobs).for_tokenizer(TOKENS)
  return jax.tree.map(np.asarray, jax.jit(objective.rearranged)(rows, key))


def original(tokens: list[int]) -> tuple[list[int], str]:
  """The document before it was rearranged, and the kind."""
  if tokens[0] != PRE:
    return tokens, "causal"
  end = [EOD] if tokens[-1] == EOD else []
  body = tokens[:-1] if end else tokens
  suf, mid = body.index(SUF), body.index(MID)
  suffix, rest = body[suf + 1:mid], body[mid + 1:]
  return (rest + suffix + end, "SPM") if suf == 1 and len(rest) and len(body) > 3 else (
      body[1:suf] + rest + suffix + end, "PSM")


@pytest.mark.parametrize("suffix_first", [0.0, 1.0])
def test_nothing_is_lost_and_the_order_is_the_published_one(suffix_first):
  rows = batch(64, 64, padding=12)
  moved = rearranged(rows, jax.random.key(0), rate=0.5, suffix_first=suffix_first)
  kinds = []
  for r in range(64):
    for number in (1, 2):
      old = np.asarray(rows["tokens"])[r, np.asarray(rows["segment_ids"])[r] == number].tolist()
      mine = moved["segment_ids"][r] == number
      new, kind = original(moved["tokens"][r, mine].tolist())
      assert new == old
      assert moved["positions"][r, mine].tolist() == list(range(mine.sum()))
      kinds.append(kind)
      assert moved["weights"][r, mine].tolist() == [1.0] * (int(mine.sum()) - 1) + [0.0]
    real = moved["segment_ids"][r] > 0
    np.testing.assert_array_equal(moved["targets"][r, :-1][real[1:]], moved["tokens"][r, 1:][real[1:]])
  assert 40 < kinds.count("causal") < 88
  if suffix_first == 0.0:
    assert kinds.count("SPM") < 20  # a PSM document with an empty prefix looks like one


def test_a_full_row_loses_what_no_longer_fits_and_keeps_its_last_target():
  rows = batch(32, 32, documents=False)
  moved = rearranged(rows, jax.random.key(1), rate=1.0)
  assert (moved["tokens"][:, 0] == PRE).all() and (moved["weights"] == 1).all() and "segment_ids" not in moved
  same = rearranged(rows, jax.random.key(1), rate=0.0)
  for name in ("tokens", "targets", "weights"):
    np.testing.assert_array_equal(same[name], rows[name])


def test_middles_have_every_length():
  rows = batch(600, 16, documents=False)
  moved = rearranged(rows, jax.random.key(2), rate=1.0, suffix_first=0.0)
  suf = (moved["tokens"] == SUF).argmax(1)
  assert set(suf.tolist()) == set(range(1, 16)) | ({0} if (suf == 0).any() else set())
  assert suf[suf > 0].mean() < 16 / 2  # the smaller of two cuts: a third of the row


def test_the_loss_reads_the_rearranged_row_and_evaluation_repeats():
  rows, params = batch(4, 32), table(TOKENS.vocab_size)
  objective = fill_in_the_middle.build(rate=1.0).for_tokenizer(TOKENS)
  (a, call), (b, _) = (run(objective, params, rows) for _ in range(2))
  np.testing.assert_array_equal(a.values, b.values)
  moved = rearranged(rows, rate=1.0)
  np.testing.assert_array_equal(call["input_ids"], moved["tokens"])
  log_p = np.asarray(jax.nn.log_softmax(params["table"]))
  np.testing.assert_allclose(a.values, -log_p[moved["tokens"], moved["targets"]], rtol=1e-4)


def test_what_cannot_be_is_refused():
  with pytest.raises(ConfigError, match="rate"):
    fill_in_the_middle.build(rate=1.5)
  with pytest.raises(ConfigError, match="sentinels"):
    fill_in_the_middle.build().for_tokenizer(tokenizer())
