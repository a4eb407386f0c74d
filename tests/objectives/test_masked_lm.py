"""Masking: exact counts, the published shares, whole units, the same dice for the same step or the same text."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from text_rows_fixture import Shown, batch, table, tokenizer

from llm_jax.core.errors import ConfigError
from llm_jax.objectives import masked_lm, masking
from llm_jax.objectives.masking import Masking, mask
from llm_jax.objectives.text_rows import is_text, word_starts

TOKENS = tokenizer()


def masked(rows: dict, key=None, knobs=None, **settings):
  got = jax.jit(lambda rows, key: mask(Masking(**settings), TOKENS, rows, key, knobs or {}))(rows, key)
  return jax.tree.map(np.asarray, got)


@pytest.mark.parametrize("ratio", [0.15, 0.4])
def test_of_every_row_exactly_that_share_is_masked_and_only_text(ratio):
  rows = batch(padding=9)
  _, chosen = masked(rows, jax.random.key(0), ratio=ratio)
  text = np.asarray(is_text(rows, TOKENS))
  assert text.sum() == 8 * (64 - 9 - 2)
  np.testing.assert_array_equal(chosen.sum(1), np.floor(ratio * text.sum(1) + 0.5))
  assert not (chosen & ~text).any()


def test_what_stands_in_the_place_has_the_published_shares():
  rows = batch(rows=400)
  corrupted, chosen = masked(rows, jax.random.key(0), ratio=0.5)
  tokens = np.asarray(rows["tokens"])
  np.testing.assert_array_equal(corrupted[~chosen], tokens[~chosen])
  new, old = corrupted[chosen], tokens[chosen]
  is_mask = new == TOKENS.special["mask"]
  assert abs(is_mask.mean() - 0.8) < 0.01
  assert abs(((new != old) & ~is_mask).mean() - 0.1 * 255 / 256) < 0.01
  drawn = new[(new != old) & ~is_mask]
  assert drawn.max() < 256 and len(np.unique(drawn)) > 200  # any byte, no special id
  assert abs(chosen.mean(0)[5:20].mean() - chosen.mean(0)[40:55].mean()) < 0.02  # everywhere in the row alike


@pytest.mark.parametrize("unit", ["word", "ngram", "span", "phrase"])
def test_units_are_masked_whole_and_as_many_as_fit(unit):
  rows = batch(rows=64)
  if unit == "phrase":
    rows["phrase_ids"] = jnp.where(jnp.arange(64) % 16 < 9, 1 + jnp.arange(64) // 16, 0) * jnp.ones((64, 1), jnp.int32)
  settings = Masking(ratio=0.3, unit=unit)
  key = jax.random.key(3)
  _, chosen = masked(rows, key, ratio=0.3, unit=unit)
  text = np.asarray(is_text(rows, TOKENS))
  keys = jax.vmap(lambda k: jax.random.split(k, 4))(masking.row_keys(key, rows["tokens"]))
  unit_of = np.asarray(masking.units(settings, TOKENS, rows, jnp.asarray(text), keys[:, 0]))
  starts = np.asarray(word_starts(rows, TOKENS))
  for r in range(64):
    sizes, parts = [], 0
    for u in np.unique(unit_of[r]):
      mine = unit_of[r] == u
      part = chosen[r, mine]
      parts += part.any() and not part.all()
      assert part.all() or not part.any() or part.argmin() == part.sum()  # of one in part, its first tokens
      assert len(np.unique(np.asarray(rows["segment_ids"])[r, mine])) == 1
      assert unit == "phrase" or starts[r, mine.argmax()] or text[r, mine.argmax()] != text[r, mine.argmax() - 1]
      sizes.append(int((mine & text[r]).sum()))
    wanted = int(0.3 * text[r].sum() + 0.5)
    assert wanted - max(sizes) < chosen[r].sum() <= wanted
    assert parts <= (unit == "span") and (unit != "span" or chosen[r].sum() == wanted)


@pytest.mark.parametrize("unit", ["token", "word", "ngram", "span", "phrase"])
def test_the_share_of_masked_tokens_is_the_one_asked_for(unit):
  rows = batch(rows=128, length=256, padding=9)
  if unit == "phrase":
    rows["phrase_ids"] = jnp.where(jnp.arange(256) % 16 < 6, 1 + jnp.arange(256) // 16, 0) * jnp.ones((128, 1), int)
  text = np.asarray(is_text(rows, TOKENS))
  step = jax.jit(lambda ratio: mask(Masking(unit=unit), TOKENS, rows, jax.random.key(1), {"mask_ratio": ratio})[1])
  for ratio in (0.15, 0.3):
    chosen = np.asarray(step(np.float32(ratio)))
    wanted = np.floor(np.float32(ratio) * text.sum(1) + 0.5)
    assert not (chosen & ~text).any() and (chosen.sum(1) <= wanted).all()
    assert chosen.sum() > 0.98 * wanted.sum()


def test_a_unit_that_does_not_fit_is_left_out_and_the_next_ones_are_tried():
  random = np.random.default_rng(0)
  pick = jax.jit(jax.vmap(masking.choose_whole))
  unit = np.sort(random.integers(0, 12, (200, 40)), 1).astype(np.int32)
  text = np.take_along_axis(random.random((200, 40)) < 0.8, unit, 1)  # a unit is text or it is not
  keys, wanted = jax.random.split(jax.random.key(0), 200), random.integers(0, 30, 200).astype(np.float32)
  chosen = np.asarray(pick(keys, unit, text, wanted))
  order, sizes = jax.tree.map(np.asarray, jax.vmap(masking.shuffled)(keys, unit, text))
  for r in range(200):
    left, want = wanted[r], np.zeros(40, bool)
    for u, size in zip(order[r], sizes[r]):
      if size <= left:
        left -= size
        want |= (unit[r] == u) & text[r]
    np.testing.assert_array_equal(chosen[r], want)


def test_lengths_are_those_of_the_papers():
  np.testing.assert_allclose(Masking(unit="ngram").lengths(), [6 / 11, 3 / 11, 2 / 11])
  span = Masking(unit="span").lengths()
  assert len(span) == 10 and abs((span * np.arange(1, 11)).sum() - 3.8) < 0.01  # SpanBERT, section 3.1
  words = jnp.arange(20_000)
  for unit in ("ngram", "span"):
    group = np.asarray(masking.tiling(jax.random.key(0), words, jnp.asarray(Masking(unit=unit).lengths())))
    found = np.bincount(np.bincount(group)[:-1])[1:]
    np.testing.assert_allclose(found / found.sum(), Masking(unit=unit).lengths(), atol=0.02)


def test_the_dice_are_the_steps_or_the_texts():
  rows = batch()
  a, b, c = (masked(rows, jax.random.key(i))[1] for i in (0, 0, 1))
  assert (a == b).all() and (a != c).any()
  whole, again = masked(rows), masked(rows)
  assert (whole[0] == again[0]).all() and (whole[1][0, :40] != whole[1][1, :40]).any()
  part = masked(jax.tree.map(lambda x: x[3:5], rows))  # whatever else is in the batch
  np.testing.assert_array_equal(part[0], whole[0][3:5])


def test_the_loss_is_that_of_all_scores_where_something_was_masked():
  rows, params = batch(padding=5), table()
  objective = masked_lm.build().for_tokenizer(TOKENS)
  def total(params, objective):
    losses = objective(shown := Shown(), params, rows, jax.random.key(2), {})
    return (losses.values * losses.weights).sum(), (losses, shown.calls[0])
  taught = lambda objective: jax.jit(jax.value_and_grad(lambda p: total(p, objective), has_aux=True))(params)
  (value, (losses, call)), grads = taught(objective)
  chosen = np.asarray(losses.weights) > 0
  logits = jax.nn.log_softmax(params["table"])[call["input_ids"]]
  want = -np.take_along_axis(np.asarray(logits), np.asarray(rows["tokens"])[..., None], -1)[..., 0]
  np.testing.assert_allclose(np.asarray(losses.values)[chosen], want[chosen], rtol=1e-5)
  assert chosen.sum() == losses.weights.sum() and (np.asarray(losses.values)[~chosen] == 0).all()
  np.testing.assert_array_equal(call["segment_ids"], rows["segment_ids"])
  assert call["key"] is not None
  full = dataclasses.replace(objective, masking=dataclasses.replace(objective.masking, bound=1.0))
  (again, _), full_grads = taught(full)
  np.testing.assert_allclose(value, again, rtol=1e-6)
  np.testing.assert_allclose(grads["table"], full_grads["table"], rtol=1e-5, atol=1e-6)


def test_a_curriculum_moves_the_ratio_without_a_new_program():
  rows = batch()
  step = jax.jit(lambda ratio: mask(Masking(), TOKENS, rows, jax.random.key(0), {"mask_ratio": ratio})[1].sum(1))
  text = np.asarray(is_text(rows, TOKENS)).sum(1)
  for ratio in (0.1, 0.5, 1.0):
    np.testing.assert_array_equal(step(np.float32(ratio)), np.floor(ratio * text + 0.5))
  assert step._cache_size() == 1


@pytest.mark.parametrize("knobs, key", [
    (dict(ratio=0.0), "ratio"), (dict(ratio=1.5), "ratio"), (dict(bound=0.0), "bound"),
    (dict(mask_share=0.9, random_share=0.2), "mask_share"), (dict(unit="token", longest=3), "longest")])
def test_impossible_knobs_are_refused(knobs, key):
  with pytest.raises(ConfigError, match=f"config.objective.{key}"):
    masked_lm.build(**knobs)


def test_a_tokenizer_without_a_mask_is_refused():
  from llm_jax.data.tokenizers.bytes import ByteTokenizer
  with pytest.raises(ConfigError, match=r"'mask'.*\n.*special"):
    masked_lm.build().for_tokenizer(ByteTokenizer(["eod"]))
