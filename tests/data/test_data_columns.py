"""Columns beside the text: a row's domain, and its difficulty as the scorer `column` sees it."""

import json

import numpy as np
import pytest

from llm_jax import experiment
from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.types import Plan
from llm_jax.data import text_folder
from llm_jax.data.corpus import DataContext

LETTERS = "abcdefghijklmnopqrst"


def documents():
  """Twenty of 30 letters each, from two sources; the later the letter the harder."""
  return [{"text": letter * 30, "source": "web" if i % 2 else "books", "hardness": i * 0.5}
          for i, letter in enumerate(LETTERS)]


def write(path, rows):
  if path.suffix == ".parquet":
    import pyarrow
    import pyarrow.parquet
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
  else:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


def build(folder, path, **knobs):
  given = dict(tokenizer=dict(name="bytes"), split="documents", validation_fraction=0.2, domain_column="source",
               difficulty_column="hardness")
  return text_folder.build(DataContext(0, folder / "cache"), path=path, **{**given, **knobs})


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_column_names_the_domain_and_a_column_the_difficulty(tmp_path, kind):
  corpus = build(tmp_path, write(tmp_path / f"rows.{kind}", documents()))
  assert {s.domain for s in corpus.streams} == {"web", "books"}
  expected = {row["text"][0]: row["hardness"] for row in documents()}
  found = {}
  for stream in corpus.streams:
    assert stream.rated
    for i in range(stream.documents):
      text = corpus.tokenizer.decode(stream.tokens[stream.offsets[i]:stream.offsets[i + 1]])
      found[text[0]] = float(stream.difficulty[i])
  assert found == expected
  assert build(tmp_path, str(tmp_path / f"rows.{kind}"), difficulty_column=None).fingerprint != corpus.fingerprint


def test_rows_whose_columns_cannot_be_read_are_named(tmp_path):
  rows = documents()
  rows[3]["hardness"], rows[5]["source"] = "very", None
  with pytest.raises(DataError, match=r"rows\.jsonl:4: column 'hardness' is no number but 'very'"):
    build(tmp_path, write(tmp_path / "rows.jsonl", rows), on_bad_data="fail")
  rows[3]["hardness"] = 10 ** 400
  with pytest.raises(DataError, match=r"rows\.jsonl:4: column 'hardness' is no number but 1000"):
    build(tmp_path, write(tmp_path / "rows.jsonl", rows), on_bad_data="fail")
  rows[3]["hardness"] = 1
  with pytest.raises(DataError, match=r"rows\.jsonl:6: column 'source' names no domain"):
    build(tmp_path, write(tmp_path / "rows.jsonl", rows), on_bad_data="fail")


@pytest.mark.parametrize("packing", ["concat", "best_fit", "pad"])
def test_rows_are_admitted_from_easy_to_hard_by_the_column(tmp_path, monkeypatch, packing):
  monkeypatch.setenv("LLM_JAX_CACHE", str(tmp_path / "cache"))
  path = write(tmp_path / "rows.jsonl", documents())
  data = dict(name="text_folder", path=path, tokenizer=dict(name="bytes"), packing=packing, split="documents",
              validation_fraction=0.2, difficulty_column="hardness")
  config = dict(model=dict(name="gpt", variant="debug", width=16, depth=1, heads=2), data=data,
                optimizer=dict(name="adam", peak=1e-3), train=dict(steps=20, batch_size=8, length=32),
                curriculum=dict(name="competence", scorer="column", until=1.0, c0=0.2))
  run = experiment.build(config)
  source = run.corpus.train
  order, ranks = source.order("text", 32)
  rows = source.window_rows("text", order, 32)
  hardness = source.streams[0].difficulty
  means = [np.mean([hardness[d] for d in row if d >= 0]) for row in rows["document"]]
  assert (np.diff(means) >= -1e-9).all() and means[-1] > means[0] + 3
  for row, tokens in zip(rows["document"], rows["tokens"]):  # the documents named are those whose letters stand there
    letters = {LETTERS[int(hardness[d] * 2)] for d in row if d >= 0}
    assert {chr(t) for t in tokens if chr(t) in LETTERS} <= letters
  easy = source.take(0, Plan(8, 32, admit=float(ranks[0])))["tokens"]
  assert {chr(t) for t in np.unique(easy)} & set(LETTERS) <= set(LETTERS[:6])


def test_data_without_the_column_are_refused(tmp_path, monkeypatch):
  monkeypatch.setenv("LLM_JAX_CACHE", str(tmp_path / "cache"))
  path = write(tmp_path / "rows.jsonl", documents())
  with pytest.raises(ConfigError, match="come with no difficulty"):
    experiment.build(dict(
        model=dict(name="gpt", variant="debug"), optimizer=dict(name="adam", peak=1e-3),
        data=dict(name="text_folder", path=path, tokenizer=dict(name="bytes"), split="documents",
                  validation_fraction=0.2),
        train=dict(steps=20, batch_size=8, length=32), curriculum=dict(name="competence", scorer="column")))
