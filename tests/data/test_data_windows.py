"""The law of the data path: batch = f(seed, step, plan), and every window once per epoch."""

import dataclasses
import pickle

import numpy as np
import pytest

from llm_jax import launch_checks
from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.types import Plan
from llm_jax.data import text_folder
from llm_jax.data.packing import table
from llm_jax.data.samples import sample

BYTES = {"name": "bytes"}


def build(context, folder, **knobs):
  return text_folder.build(context, path=str(folder), tokenizer=BYTES, **{"validation_fraction": 0.1, **knobs})


def digest(batch):
  return {name: array.tobytes() for name, array in batch.items()}


@pytest.mark.parametrize("packing", ["concat", "best_fit", "first_fit", "pad"])
def test_every_window_once_per_epoch(context, folder, packing):
  source = build(context, folder, packing=packing).train
  counts = source.windows(64)
  total, batch = sum(counts.values()), 8
  seen = []
  for step in range(-(-2 * total // batch)):
    domain, window, _ = source.examples(step, Plan(batch, 64))
    seen += list(zip(domain.tolist(), window.tolist()))
  every = {(d, w) for d, n in enumerate(counts.values()) for w in range(n)}
  assert set(seen[:total]) == every and len(seen[:total]) == len(every)
  assert set(seen[total:2 * total]) == every
  assert seen[:total] != seen[total:2 * total]  # another order


def test_every_window_of_a_domain_once_per_epoch_of_a_weighted_mixture(context, folder):
  source = build(context, folder, mixture={"a": 0.25, "b": 0.75}).train
  count = source.windows(64)["b"]
  windows = [w for step in range(200) for d, w, _ in zip(*source.examples(step, Plan(8, 64))) if d == 1]
  assert len(windows) > 2 * count
  assert sorted(windows[:count]) == sorted(windows[count:2 * count]) == list(range(count))
  domains = np.concatenate([source.examples(step, Plan(8, 64))[0] for step in range(200)])
  assert (domains == 1).mean() == 0.75


@pytest.mark.parametrize("packing", ["concat", "best_fit", "pad"])
def test_hosts_take_the_rows_of_one_global_batch(context, folder, packing):
  source = build(context, folder, packing=packing, mixture="equal").train
  plan = Plan(8, 32)
  for step in (0, 7, 1000):
    whole = source.take(step, plan)
    parts = [source.take(step, plan, slice(start, start + 2)) for start in range(0, 8, 2)]
    for name in whole:
      assert (np.concatenate([p[name] for p in parts]) == whole[name]).all()


def test_same_seed_same_batches_other_seed_others(context, folder, tmp_path):
  plan = Plan(8, 32)
  first = digest(build(context, folder).train.take(3, plan))
  assert digest(build(context, folder).train.take(3, plan)) == first
  moved = dataclasses.replace(context, cache_dir=tmp_path / "elsewhere")
  assert digest(build(moved, folder).train.take(3, plan)) == first
  assert digest(build(dataclasses.replace(context, seed=1), folder).train.take(3, plan)) != first


def test_targets_are_the_next_tokens_and_stop_at_documents(context, folder):
  corpus = build(context, folder)
  eod, bos = corpus.tokenizer.special["eod"], corpus.tokenizer.special["bos"]
  for step in range(40):
    b = corpus.train.take(step, Plan(4, 64))
    same = b["segment_ids"][:, 1:] == b["segment_ids"][:, :-1]
    assert (b["targets"][:, :-1] == b["tokens"][:, 1:]).all()
    assert (b["weights"][:, :-1] == same).all()
    assert ((b["tokens"] == eod) == (b["weights"] == 0)).all()  # only the end of a document has no target
    assert (b["positions"][b["tokens"] == bos] == 0).all()
    assert (b["positions"][:, 0] == 0).all() and (b["segment_ids"][:, 0] == 1).all()
    assert (np.diff(b["positions"], axis=1)[same] == 1).all()
    assert {k: v.dtype.name for k, v in b.items()} == {
        "tokens": "int32", "targets": "int32", "segment_ids": "int32", "positions": "int32", "weights": "float32"}


def test_plain_stream_has_no_boundaries(context, folder):
  source = build(context, folder, document_boundaries=False).train
  b = source.take(5, Plan(4, 64))
  assert (b["segment_ids"] == 1).all() and (b["weights"] == 1).all() and (b["positions"] == np.arange(64)).all()
  with pytest.raises(ConfigError, match="document_boundaries"):
    build(context, folder, document_boundaries=False, packing="pad")


def test_an_epoch_of_concat_serves_every_token_once_but_for_a_tail(context, folder):
  source = build(context, folder, domains="one").train
  stream, windows = source.streams[0], sum(source.windows(64).values())
  starts = np.concatenate([source.examples(step, Plan(1, 64))[2] for step in range(windows)])
  places = (starts[:, None] + np.arange(64)).ravel() % stream.size
  assert len(set(places.tolist())) == len(places) == windows * 64 > stream.size - 64


def test_the_window_over_the_seam_goes_on_at_the_start(context, folder):
  source = build(context, folder, domains="one").train
  stream, seams = source.streams[0], 0
  circle = np.concatenate([stream.tokens, stream.tokens])
  for step in range(4 * sum(source.windows(64).values())):
    _, _, (start,) = source.examples(step, Plan(1, 64))
    if start + 64 < stream.size:
      continue
    seams += 1
    b = source.take(step, Plan(1, 64))
    assert (b["tokens"][0] == circle[start:start + 64]).all()
    assert (b["targets"][0] == circle[start + 1:start + 65]).all()
    first = stream.size - start  # column of the stream's first token
    assert b["weights"][0, first - 1] == 0
    assert first == 64 or b["positions"][0, first] == 0
  assert seams >= 2


@pytest.mark.parametrize("packing", ["best_fit", "first_fit"])
def test_packing_keeps_documents_whole_and_loses_none(context, folder, packing):
  corpus = build(context, folder, packing=packing, domains="one")
  source, stream, length = corpus.train, corpus.train.streams[0], 256
  t = table(packing, stream.offsets, length)
  assert t.tokens == stream.size
  assert t.tokens / (t.count * length) > 0.9
  texts, cut = [], 0
  for step in range(t.count):
    b = source.take(step, Plan(1, length))
    tokens, segments = b["tokens"][0], b["segment_ids"][0]
    assert (b["weights"][0][segments == 0] == 0).all()
    for s in range(1, segments.max() + 1):
      part = tokens[segments == s]
      assert (b["targets"][0][segments == s][:-1] == part[1:]).all()
      texts.append(corpus.tokenizer.decode(part))
      cut += part[-1] != corpus.tokenizer.special["eod"]
  whole = "".join(corpus.tokenizer.decode(stream.tokens[a:b]) for a, b in zip(stream.offsets, stream.offsets[1:]))
  assert sorted("".join(texts)) == sorted(whole)
  assert cut == (np.diff(stream.offsets) > length).sum()  # only documents longer than a row are cut, each once here


def test_pad_is_one_document_per_row_truncated(context, folder):
  corpus = build(context, folder, packing="pad", domains="one")
  source = corpus.train
  assert source.windows(64) == {"text": source.streams[0].documents}
  b = source.take(0, Plan(8, 64))
  assert set(np.unique(b["segment_ids"])) <= {0, 1}
  assert (b["tokens"][:, 0] == corpus.tokenizer.special["bos"]).all()
  assert (b["tokens"][b["segment_ids"] == 0] == corpus.tokenizer.special["pad"]).all()
  full = b["segment_ids"][:, -1] == 1
  assert full.any() and not full.all()
  assert (b["weights"][full] == 1).all()  # a truncated document has a next token at the cut
  assert (b["targets"][full, -1] < 256).all()


def test_a_plan_changes_length_and_mixture_of_a_step(context, folder):
  source = build(context, folder).train
  assert source.take(0, Plan(4, 16))["tokens"].shape == (4, 16)
  assert source.take(1, Plan(2, 48))["tokens"].shape == (2, 48)
  domain, *_ = source.examples(9, Plan(8, 16, mixture={"b": 1.0}))
  assert (domain == 1).all()
  with pytest.raises(ConfigError, match="unknown domain 'c'"):
    source.take(0, Plan(8, 16, mixture={"c": 1.0}))


def test_drifting_mixtures_do_not_serve_the_same_windows_again(context, folder):
  source = build(context, folder).train
  served = []
  for step in range(1, 20):  # the weight of b falls as 1 / step: its index would stand still
    domain, window, _ = source.examples(step, Plan(8, 16, mixture={"a": 1 - 0.5 / step, "b": 0.5 / step}))
    served += window[domain == 1].tolist()
  assert len(set(served)) > len(served) / 2


def test_admitted_part_follows_the_order_given(context, folder):
  source = build(context, folder, domains="one").train
  with pytest.raises(ConfigError, match="order"):
    source.take(0, Plan(4, 16, admit=0.5))
  count = source.windows(16)["text"]
  source = source.serving(order=lambda domain, length: (np.arange(count)[::-1], np.arange(1, count + 1) / count))
  windows = np.concatenate([source.examples(step, Plan(4, 16, admit=0.25))[1] for step in range(count)])
  assert windows.min() == count - count // 4
  assert set(windows.tolist()) == set(range(int(windows.min()), count))


def test_too_little_data_is_an_error_that_says_so(context, folder):
  source = build(context, folder).train
  with pytest.raises(DataError, match="fewer than one batch of 100000"):
    source.take(0, Plan(100_000, 64))
  with pytest.raises(DataError, match="0 windows"):
    source.take(0, Plan(1, 10**6))


def test_sources_pickle_small(context, folder):
  source = build(context, folder, packing="best_fit").train
  before = digest(source.take(2, Plan(4, 32)))
  data = pickle.dumps(source)
  assert len(data) < 5000
  assert digest(pickle.loads(data).take(2, Plan(4, 32))) == before  # noqa: S301, our own bytes


def test_sample_shows_document_boundaries(context, folder):
  rows = sample(build(context, folder), 3, 200)
  assert len(rows) == 3
  assert any("--- document 2: " in row and "begins" in row for row in rows)


def test_a_domain_that_fills_no_row_is_told(context, folder, caplog):
  (folder / "c").mkdir()
  (folder / "c" / "short.txt").write_text("too short to be a row of text")
  (folder / "c" / "too.txt").write_text("and this, too")
  corpus = build(context, folder, split="tail")
  launch_checks.tell_short_domains(corpus, 16)
  assert not caplog.text
  launch_checks.tell_short_domains(corpus, 64)
  assert "'c' is not trained on" in caplog.text and "row of 64" in caplog.text and "'a'" not in caplog.text
