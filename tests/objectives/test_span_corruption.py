"""Left-out spans: T5's counts, every composition alike, and nothing of the text is lost between source and target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from text_rows_fixture import Shown, batch, run, table, tokenizer

from llm_jax.core.errors import ConfigError
from llm_jax.objectives import noise_spans, prefix_lm, span_corruption, ul2
from llm_jax.objectives.noise_spans import Counts
from llm_jax.objectives.source_and_target import SourceTarget, joined

TOKENS = tokenizer(sentinels=40)
END, PAD = TOKENS.special["eod"], TOKENS.special["pad"]


def corrupted(rows: dict, ratio: float, mean: float, key=None) -> SourceTarget:
  counts = Counts.of(rows["tokens"].shape[1], ratio, mean)
  def make(rows, key):
    size = (rows["segment_ids"] > 0).sum(1)
    return noise_spans.leave_out(TOKENS, rows, key, jnp.asarray(counts.noise)[size], jnp.asarray(counts.spans)[size],
                                 counts.widths, int(counts.spans.max()))
  return jax.tree.map(np.asarray, jax.jit(make)(rows, key))


def restored(source: np.ndarray, target: np.ndarray) -> list[int]:
  """The text: what the target says of each sentinel put in the sentinel's place."""
  said: dict[int, list[int]] = {}
  for token in target.tolist():
    if token in TOKENS.sentinels:
      said[current := token] = []
    else:
      said[current].append(token)
  return [t for token in source.tolist() for t in said.get(token, [token])]


def test_counts_are_those_of_t5():
  counts = Counts.of(568, 0.15, 3.0)  # the text that fills T5's 512 tokens
  assert (counts.noise[568], counts.spans[568], counts.widths) == (85, 28, (512, 114))
  assert (counts.noise[:2] == 0).all() and (counts.noise[2:] >= 1).all() and (counts.spans <= counts.noise).all()
  assert Counts.of(100, 0.25, np.inf).spans.max() == 1


@pytest.mark.parametrize("ratio, mean", [(0.15, 3.0), (0.5, 3.0), (0.5, 8.0), (0.25, np.inf)])
def test_source_and_target_together_are_the_text(ratio, mean):
  rows = batch(32, 64, padding=7)
  made, counts = corrupted(rows, ratio, mean, jax.random.key(0)), Counts.of(64, ratio, mean)
  for r in range(32):
    source, target = made.source[r, :made.source_size[r]], made.target[r, :made.target_size[r]]
    assert source[-1] == target[-1] == END
    assert (made.source[r, len(source):] == PAD).all() and (made.target[r, len(target):] == PAD).all()
    assert restored(source[:-1], target[:-1]) == np.asarray(rows["tokens"])[r, :57].tolist()
    marks = [t for t in source if t in TOKENS.sentinels]
    assert marks == [t for t in target if t in TOKENS.sentinels] == list(TOKENS.sentinels[:counts.spans[57]])
    assert len(target) == counts.noise[57] + counts.spans[57] + 1
    assert source[0] == rows["tokens"][r, 0] and source[-2] == marks[-1]  # text first, a span last


def test_every_way_to_cut_is_alike():
  cut = jax.jit(jax.vmap(lambda k: noise_spans.pieces(k, 5, 3, 7)))(jax.random.split(jax.random.key(0), 6000))
  found, many = np.unique(np.asarray(cut)[:, :5], axis=0, return_counts=True)
  assert len(found) == 6 and (found[:, -1] == 2).all()  # 4 over 2 ways
  np.testing.assert_allclose(many / 6000, 1 / 6, atol=0.02)


def test_dice_and_padding():
  rows = batch(8, 64, padding=7)
  a, b, c = (corrupted(rows, 0.15, 3.0, jax.random.key(i)) for i in (0, 0, 1))
  assert (a.source == b.source).all() and (a.source != c.source).any()
  whole, part = corrupted(rows, 0.15, 3.0), corrupted(jax.tree.map(lambda x: x[2:5], rows), 0.15, 3.0)
  np.testing.assert_array_equal(whole.source[2:5], part.source)
  empty = corrupted(rows | {"segment_ids": jnp.zeros((8, 64), jnp.int32)}, 0.15, 3.0)
  assert (empty.target_size == 0).all()


@pytest.mark.parametrize("form", ["encoder_decoder", "prefix", "causal"])
@pytest.mark.parametrize("name", ["span_corruption", "ul2", "prefix_lm"])
def test_the_loss_is_on_the_target_and_reads_what_comes_before(form, name):
  rows, params = batch(6, 64, padding=7), table(TOKENS.vocab_size)
  objective = {"span_corruption": span_corruption, "ul2": ul2, "prefix_lm": prefix_lm}[name].build(form=form)
  objective = objective.for_tokenizer(TOKENS)
  assert objective.needs == (form,)
  losses, call = jax.tree.map(np.asarray, run(objective, params, rows, jax.random.key(1)))
  assert ("prefix_length" in call) == (form == "prefix")
  log_p = np.asarray(jax.nn.log_softmax(params["table"]))  # Shown predicts from the one token that it reads
  read = call["decoder_input_ids"] if form == "encoder_decoder" else call["input_ids"]
  values, weights = np.asarray(losses.values), np.asarray(losses.weights)
  counted = 0
  for r in range(6):
    if form == "encoder_decoder":
      assert read[r, 0] == PAD
      pairs = list(zip(read[r], [*read[r, 1:], END]))[:int(weights[r].sum())]
    elif name == "prefix_lm":
      pairs = [(read[r, i], int(rows["targets"][r, i])) for i in np.flatnonzero(weights[r])]
    else:
      size = int(call["segment_ids"][r].sum())
      count = int(weights[r].sum())
      pairs = list(zip(read[r], [*read[r, 1:], END]))[size - count if size < read.shape[1] else 0:]
      pairs = [p for p in pairs if p[0] != PAD][-count:]
    got = values[r][weights[r] > 0]
    if form == "encoder_decoder" or name == "prefix_lm":
      np.testing.assert_allclose(got, [-log_p[a, b] for a, b in pairs], rtol=1e-4)
    counted += len(got)
  assert counted == weights.sum() > 0 and losses.metrics["accuracy"].weight == counted


def test_a_curriculum_moves_ratio_and_length_without_a_new_program():
  rows = batch(4, 64, padding=7)
  objective = span_corruption.build(least_mean=2.0).for_tokenizer(TOKENS)
  make = jax.jit(lambda ratio, mean: objective.corrupted(rows, jax.random.key(0),
                                                         dict(mask_ratio=ratio, span_length=mean)))
  for ratio, mean in ((0.1, 3.0), (0.3, 2.0), (0.5, 5.0)):
    made, counts = jax.tree.map(np.asarray, make(np.float32(ratio), np.float32(mean))), Counts.of(64, ratio, mean)
    for r in range(4):
      source, target = made.source[r, :made.source_size[r] - 1], made.target[r, :made.target_size[r] - 1]
      assert restored(source, target) == np.asarray(rows["tokens"])[r, :57].tolist()
      assert len(target) == counts.noise[57] + counts.spans[57]
  assert make._cache_size() == 1
  cut = jax.tree.map(np.asarray, make(np.float32(0.9), np.float32(1.0)))
  most = Counts.of(64, 0.5, 2.0)
  assert ((cut.target_size - 1) == most.noise[64] + most.spans[64]).all()


def test_in_one_row_the_target_follows_the_source():
  made = corrupted(batch(4, 64, padding=7), 0.5, 3.0, jax.random.key(0))
  rows = np.asarray(joined(jax.tree.map(jnp.asarray, made), PAD))
  for r in range(4):
    e, t = made.source_size[r], made.target_size[r]
    np.testing.assert_array_equal(rows[r, :e + t], [*made.source[r, :e], *made.target[r, :t]])
    assert (rows[r, e + t:] == PAD).all()


def test_ul2_draws_its_denoisers_alike_and_marks_their_mode():
  rows = batch(700, 64)
  objective = ul2.build().for_tokenizer(TOKENS)
  made = jax.tree.map(np.asarray, jax.jit(objective.corrupted)(rows, jax.random.key(0)))
  modes = dict(zip(TOKENS.sentinels[:-4:-1], "RXS"))
  drawn = [modes[int(t)] for t in made.source[:, 0]]
  for mode, share in (("R", 2 / 7), ("X", 4 / 7), ("S", 1 / 7)):
    assert abs(drawn.count(mode) / 700 - share) < 0.06
  wanted = {m: {int(Counts.of(64, d["ratio"], d["mean"] or np.inf).noise[64]) for d in ul2.DENOISERS if d["mode"] == m}
            for m in "RXS"}
  for r in range(60):
    source, target = made.source[r, 1:made.source_size[r] - 1], made.target[r, :made.target_size[r] - 1]
    assert restored(source, target) == np.asarray(rows["tokens"])[r].tolist()
    assert sum(t not in TOKENS.sentinels for t in target.tolist()) in wanted[drawn[r]]


def test_a_prefix_is_cut_anywhere():
  rows = batch(400, 16, documents=False)
  objective = prefix_lm.build(form="encoder_decoder").for_tokenizer(TOKENS)
  losses, call = run(objective, table(TOKENS.vocab_size), rows, jax.random.key(0))
  size = np.asarray(call["attention_mask"]).sum(1) - 1
  assert set(size.tolist()) == set(range(1, 16)) and (np.asarray(losses.weights).sum(1) == 16 - size + 1).all()


def test_what_cannot_be_is_refused():
  for kwargs in (dict(ratio=0.0), dict(ratio=1.0), dict(mean=0.5)):
    with pytest.raises(ConfigError, match=r"config\.objective"):
      span_corruption.build(**kwargs)
  for denoisers in ([dict(mode="Q", mean=3.0, ratio=0.1)], [dict(mode="R")], [dict(mode="R", mean=3, ratio=2.0)]):
    with pytest.raises(ConfigError, match=r"denoisers\[0\]"):
      ul2.build(denoisers=denoisers)
  with pytest.raises(ConfigError, match="sentinels"):
    span_corruption.build().for_tokenizer(tokenizer())
  few = span_corruption.build().for_tokenizer(tokenizer(sentinels=2))
  with pytest.raises(ConfigError, match="writes 3"):
    few(Shown(), table(), batch(2, 64), None, {})
