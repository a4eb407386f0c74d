"""Bad data: every kind is named by file and line, skipped or refused by policy, and never disturbs the rest."""

import gzip
import json

import numpy as np
import pytest
from made_texts import make_texts

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.types import Plan
from llm_jax.data import text_folder, token_store
from llm_jax.data.documents import Document
from llm_jax.data.tokenizers.bytes import ByteTokenizer

GOOD = make_texts(30)


def row(text):
  return json.dumps({"text": text}).encode() + b"\n"


BAD_ROWS = {
    "invalid utf-8": (b'{"text": "caf\xe9"}\n', "not valid UTF-8"),
    "bad json": (b'{"text": "unfinished\n', "not valid JSON"),
    "deep json": (b"[" * 5000 + b"\n", "not valid JSON"),
    "not an object": (b"[1, 2]\n", "not a JSON object but a list"),
    "wrong columns": (b'{"body": "x"}\n', "no column 'text'; there are 'body'"),
    "not text": (b'{"text": 5}\n', "not text but int"),
    "null": (b'{"text": null}\n', "not text but NoneType"),
    "empty": (b'{"text": ""}\n', "empty"),
    "lone surrogate": (b'{"text": "a\\ud800"}\n', "lone surrogate at character 1"),
    "huge": (row("x" * 5000), "more than max_document_bytes=2000"),
    "endless line": (b"y" * 100_000 + b"\n", "line of more than"),
}


def build(context, path, **knobs):
  return text_folder.build(context, path=str(path), tokenizer={"name": "bytes"}, split="tail", validation_fraction=0.2,
                           max_document_bytes=2000, **{"max_bad_fraction": 0.1, **knobs})


def texts_of(corpus):
  return "".join(corpus.tokenizer.decode(s.tokens) for s in sorted(corpus.streams, key=lambda s: s.split))


@pytest.mark.parametrize("kind", list(BAD_ROWS))
@pytest.mark.parametrize("zipped", [False, True])
def test_a_bad_row_is_skipped_reported_and_leaves_the_rest_alone(context, tmp_path, kind, zipped):
  bad, reason = BAD_ROWS[kind]
  content = b"".join(map(row, GOOD[:10])) + bad + b"".join(map(row, GOOD[10:]))
  path = tmp_path / ("rows.jsonl.gz" if zipped else "rows.jsonl")
  path.write_bytes(gzip.compress(content, mtime=0) if zipped else content)
  corpus = build(context, path)
  assert texts_of(corpus) == "".join(GOOD)
  lines = corpus.bad_report.read_text().splitlines()
  assert len(lines) == 1 and lines[0].startswith(f"{path}:11\t") and reason in lines[0]
  assert str(corpus.bad_report) in corpus.description
  again = build(context, path)
  assert again.fingerprint == corpus.fingerprint and again.bad_report == corpus.bad_report
  with pytest.raises(DataError) as e:
    build(context, path, on_bad_data="fail")
  assert f"{path}:11" in str(e.value) and reason in str(e.value) and len(str(e.value).splitlines()) <= 10


def test_too_many_bad_rows_are_an_error_with_a_report(context, tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_bytes(b"".join(map(row, GOOD)) + b"{}\n" * 5)
  with pytest.raises(DataError, match="5 of 35 rows are bad, more than max_bad_fraction") as e:
    build(context, path)
  report = context.cache_dir / str(e.value).split("/")[-1]
  assert len(report.read_text().splitlines()) == 5
  assert build(context, path, max_bad_fraction=0.2).bad_report is not None


def test_good_data_leave_no_report(context, tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_bytes(b"".join(map(row, GOOD)) + b"\n  \n")  # blank lines are not rows
  assert build(context, path).bad_report is None


def test_truncated_gzip_keeps_what_came_before(context, tmp_path):
  rows = make_texts(3000)
  content = gzip.compress(b"".join(map(row, rows)), mtime=0)
  path = tmp_path / "rows.jsonl.gz"
  path.write_bytes(content[: len(content) // 2])
  corpus = build(context, path)
  kept = texts_of(corpus)
  assert "".join(rows).startswith(kept) and len(kept) > 1000
  assert "truncated gzip" in corpus.bad_report.read_text()
  path.write_bytes(b"no gzip at all")
  with pytest.raises(DataError, match="gzip"):
    build(context, path)


def test_parquet(context, tmp_path):
  pyarrow = pytest.importorskip("pyarrow")
  from pyarrow import parquet

  path = tmp_path / "rows.parquet"
  parquet.write_table(pyarrow.table({"text": [*GOOD[:5], None, *GOOD[5:]], "n": list(range(31))}), path)
  corpus = build(context, path)
  assert texts_of(corpus) == "".join(GOOD)
  assert corpus.bad_report.read_text().startswith(f"{path}:6\tcolumn 'text' is not text")
  with pytest.raises(DataError, match="no column 'body'; there are 'text', 'n'"):
    build(context, path, text_column="body")
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])
  with pytest.raises(DataError, match="truncated parquet"):
    build(context, path)


def test_a_text_file_with_a_bad_byte_is_named_by_line(context, tmp_path):
  for i, text in enumerate(GOOD):
    (tmp_path / f"{i:02d}.txt").write_text(text)
  (tmp_path / "05b.md").write_bytes(b"one\ntwo\nthr\xff\n")
  (tmp_path / "empty.py").write_bytes(b"")  # an empty file is not a row
  corpus = build(context, tmp_path)
  assert texts_of(corpus) == "".join(GOOD)
  assert corpus.bad_report.read_text() == f"{tmp_path}/05b.md:3\tnot valid UTF-8: byte 0xff\n"


@pytest.mark.parametrize("content, says", [(b"", "no documents"), (row("x"), "the validation split")])
def test_an_empty_dataset_or_split_is_an_error(context, tmp_path, content, says):
  (tmp_path / "rows.jsonl").write_bytes(content)
  with pytest.raises(DataError, match=says):
    text_folder.build(context, path=str(tmp_path / "rows.jsonl"), tokenizer={"name": "bytes"}, split="documents")


def test_fewer_windows_than_a_batch_is_an_error(context, tmp_path):
  (tmp_path / "rows.jsonl").write_bytes(b"".join(map(row, GOOD)))
  corpus = build(context, tmp_path)
  with pytest.raises(DataError, match="fewer than one batch of 512"):
    corpus.train.take(0, Plan(512, 64))


def test_a_token_outside_the_vocabulary_is_an_error(tmp_path):
  class Broken(ByteTokenizer):
    def encode(self, text):
      return np.append(super().encode(text), 999)

  with pytest.raises(DataError, match="here:1: token id 999 is not in the vocabulary of 256"):
    token_store.write(tmp_path, [("train", Document("text", "d", "here:1"))], Broken(()), bos=True, eod=True)


@pytest.mark.parametrize("name, room", [("a.txt", "text_folder"), ("a.jsonl", "preferences")])
def test_a_link_that_leads_nowhere_is_named(context, tmp_path, name, room):
  folder = tmp_path / "texts"
  folder.mkdir()
  (folder / name).symlink_to("/nowhere/at/all")
  with pytest.raises(DataError, match=f"{name}: cannot be read .*/nowhere/at/all"):
    plugins.find("data", room, "").build(context, path=str(folder))


@pytest.mark.parametrize("room", ["text_folder", "preferences", "questions", "labelled_text"])
@pytest.mark.parametrize("key", ["path", "validation_path"])
def test_an_empty_path_is_not_the_folder_that_we_are_in(context, tmp_path, room, key):
  (tmp_path / "a.jsonl").write_text("{}")
  paths = {"path": str(tmp_path / "a.jsonl"), key: ""}
  with pytest.raises(ConfigError, match=rf"config\.data\.{key}: got ''"):
    plugins.find("data", room, "").build(context, **paths)


@pytest.mark.parametrize("packing", ["concat", "stream"])
def test_too_little_text_names_the_data_and_the_keys(context, tmp_path, packing):
  (tmp_path / "a.txt").write_text("a few words, and a few more")
  corpus = build(context, tmp_path / "a.txt", packing=packing)
  with pytest.raises(DataError, match=r"a\.txt has 0 windows of 512 tokens.*\n.*config\.train\.batch_size") as e:
    corpus.train.take(0, Plan(batch=1, length=512))
  assert "config.batch" not in str(e.value)
