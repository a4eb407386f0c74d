"""Labelled texts: each is served once per epoch with its own label, from every format, and bad rows are named."""

import collections
import csv
import json

import numpy as np
import pytest

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.types import Plan
from llm_jax.data.corpus import DataContext

TEXTS = [(f"{'red ' * (i % 5 + 1)}{i}", "sport") if i % 3 else (f"{'blue ' * (i % 4 + 1)}{i}", "news")
         for i in range(60)]
PLAN = Plan(6, 12)


def write(folder, kind):
  path = folder / f"texts.{kind}"
  if kind == "csv":
    with path.open("w", newline="") as f:
      csv.writer(f).writerows([("text", "label"), *TEXTS])
  elif kind == "jsonl":
    path.write_text("\n".join(json.dumps(dict(text=t, label=name)) for t, name in TEXTS))
  else:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(
        pyarrow.table(dict(text=[t for t, _ in TEXTS], label=[name for _, name in TEXTS])), path)
  return path


def build(folder, **knobs):
  spec = dict(name="labelled_text", tokenizer=dict(name="alphabet"), validation_fraction=0.2, split="tail") | knobs
  return plugins.bind("data", spec, "config.data")(DataContext(0, folder / "cache"))


def served(corpus, data, steps):
  found = collections.Counter()
  for step in range(steps):
    batch = data.take(step, PLAN)
    for ids, real, label, weight in zip(*(batch[n] for n in ("tokens", "segment_ids", "labels", "weights"))):
      if weight:
        found[corpus.tokenizer.decode(ids[real > 0]), data.labels[label]] += 1
  return found


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_every_text_once_with_its_label(tmp_path, kind):
  half = write(tmp_path, kind)
  (tmp_path / "other").mkdir()
  corpus = build(tmp_path, path=str(half), validation_path=str(write(tmp_path / "other", kind)))
  got = served(corpus, corpus.train, len(TEXTS) // PLAN.batch)
  assert sum(got.values()) == len(TEXTS) and {name for _, name in got} == {"news", "sport"}
  for (text, name), _ in got.items():
    assert ("blue" in text) == (name == "news")
  held_out = corpus.evals["validation"]
  assert served(corpus, held_out, held_out.batches(PLAN.batch, PLAN.length)) == got


def test_reversed_texts_start_with_their_last_kept_character(tmp_path):
  path = write(tmp_path, "csv")
  one, other = (build(tmp_path, path=str(path), reverse=r).train.take(0, PLAN) for r in (False, True))
  for a, b, real in zip(one["tokens"], other["tokens"], one["segment_ids"]):
    np.testing.assert_array_equal(a[:real.sum()][::-1], b[:real.sum()])


def test_hosts_take_their_own_rows_and_epochs_differ(tmp_path):
  data = build(tmp_path, path=str(write(tmp_path, "csv"))).train
  whole, part = data.take(2, PLAN), data.take(2, PLAN, slice(2, 5))
  for name, array in part.items():
    np.testing.assert_array_equal(array, whole[name][2:5])
  steps = int(data.counts.sum()) // PLAN.batch
  assert not np.array_equal(data.take(0, PLAN)["tokens"], data.take(steps, PLAN)["tokens"])


def test_a_csv_without_header_has_numbered_columns(tmp_path):
  path = tmp_path / "ag.csv"
  with path.open("w", newline="") as f:
    csv.writer(f).writerows([(i % 2 + 1, f"title{i}", f"body{i}") for i in range(30)])
  corpus = build(tmp_path, path=str(path), header=False, label_column="1", text_columns=("2", "3"))
  assert corpus.train.labels == ("1", "2")
  text = corpus.tokenizer.decode(corpus.train.take(0, Plan(4, 40))["tokens"][0])
  assert "title" in text and "body" in text


def test_what_cannot_be_read_is_named(tmp_path):
  path = tmp_path / "bad.jsonl"
  path.write_text('{"text": "a", "label": "x"}\nnot json\n{"text": "b"}\n{"text": "c", "label": "y"}\n')
  with pytest.raises(DataError, match=r"bad.jsonl:2"):
    build(tmp_path, path=str(path), on_bad_data="fail")
  path.write_text('{"text": "aaaa", "label": "x"}\n{"text": "bbbb", "label": "x"}\n')
  with pytest.raises(DataError, match="every text has the label 'x'"):
    build(tmp_path, path=str(path), split="tail", validation_fraction=0.5)
  with pytest.raises(ConfigError, match="path"):
    build(tmp_path, path=str(tmp_path / "none.csv"))


def test_a_list_is_neither_text_nor_label_and_a_number_is_either(tmp_path):
  path = tmp_path / "a.jsonl"
  rows = [dict(text=f"t{i}", label=i % 2) for i in range(20)] + [dict(text=5, label=True)]
  path.write_text("\n".join(map(json.dumps, rows)))
  assert build(tmp_path, path=str(path)).train.labels == ("True", "0", "1")
  for bad, says in ((dict(text=["t"], label=1), r"'text' is \['t'\], no text"),
                    (dict(text="t", label={}), "'label' is {}")):
    path.write_text("\n".join(map(json.dumps, [*rows, bad])))
    with pytest.raises(DataError, match=rf"a\.jsonl:22: {says}"):
      build(tmp_path, path=str(path), on_bad_data="fail")


def test_the_published_alphabet_has_seventy_places():
  tokenizer = plugins.bind("data/tokenizers", dict(name="alphabet"), "config.x")(None).train(())
  assert tokenizer.vocab_size == 71
  assert tokenizer.encode("aZ\n é").tolist() == [1, 26, 70, 0, 0]
  assert tokenizer.encode("-").tolist() == [37]
