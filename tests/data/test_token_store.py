"""The token store: made once, found again, never read damaged, keyed by everything that decides its content."""

import json
import os
import pathlib
import resource
import subprocess
import sys
import textwrap

import pytest

from llm_jax.core.errors import DataError
from llm_jax.core.types import Plan
from llm_jax.data import corpus as corpus_module
from llm_jax.data import questions, sealed_folder, text_folder, token_store
from llm_jax.data.fingerprint import digest

BYTES = {"name": "bytes"}


def build(context, folder, **knobs):
  return text_folder.build(context, path=str(folder), **{"validation_fraction": 0.1, "tokenizer": BYTES, **knobs})


def stores(context):
  return sorted(context.cache_dir.glob("tokens-*"))


def first_batch(corpus):
  return corpus.train.take(0, Plan(8, 32))["tokens"].tolist()


def test_the_second_run_reads_and_does_not_write(context, folder, monkeypatch):
  before = first_batch(build(context, folder))
  monkeypatch.setattr(token_store, "write", lambda *a, **k: pytest.fail("tokenised again"))
  assert first_batch(build(context, folder)) == before


def test_the_store_holds_the_documents(context, folder):
  corpus = build(context, folder, split="documents")
  texts = sorted(json.loads(line)["text"] for line in (folder / "a" / "rows.jsonl").read_text().splitlines())
  texts += sorted(p.read_text() for p in (folder / "b").glob("*.txt"))
  found = []
  for stream in corpus.streams:
    parts = [corpus.tokenizer.decode(stream.tokens[s:e]) for s, e in zip(stream.offsets, stream.offsets[1:])]
    assert [len(p.encode()) for p in parts] == stream.document_bytes.tolist()
    assert len(parts) == stream.documents and stream.offsets[-1] == stream.size
    found += parts
  assert sorted(found) == sorted(texts)


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damage_to_any_file_is_found_and_the_store_made_again(context, folder, damage):
  before = first_batch(build(context, folder))
  (store,) = stores(context)
  names = sorted(p.name for p in store.iterdir())
  assert len(names) == 4 * 3 + 2
  for name in names:
    path = store / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "delete":
      path.unlink()
    else:
      path.write_bytes(bytes(content) if damage == "flip" else bytes(content[: len(content) // 2]))
    assert sealed_folder.problem(store)
    assert first_batch(build(context, folder)) == before
    assert sealed_folder.problem(store) is None
  assert len(list(context.cache_dir.glob(".*"))) == 0  # nothing left aside


def test_a_damaged_tokenizer_is_trained_again(context, folder):
  spec = {"name": "sentencepiece", "vocab_size": 300}
  before = build(context, folder, tokenizer=spec)
  (kept,) = context.cache_dir.glob("tokenizer-*")
  (kept / "sentencepiece.model").write_bytes(b"nothing")
  assert build(context, folder, tokenizer=spec).tokenizer.fingerprint == before.tokenizer.fingerprint


def test_a_half_written_store_is_ignored_and_swept(context, folder):
  reference = first_batch(build(context, folder))
  (store,) = stores(context)
  half = context.cache_dir / f".{store.name}.{os.uname().nodename}-999999999.x"
  half.mkdir()
  (half / "000.tokens").write_bytes(b"half")
  for path in store.iterdir():
    path.unlink()
  store.rmdir()
  assert first_batch(build(context, folder)) == reference
  assert not half.exists()


def test_two_processes_may_build_at_once(tmp_path):
  target = tmp_path / "made"

  def build_while_another_does(temporary):
    (temporary / "x").write_text("same")
    if not target.exists():
      sealed_folder.open_or_build(target, lambda other: (other / "x").write_text("same"))

  sealed_folder.open_or_build(target, build_while_another_does)
  assert sealed_folder.problem(target) is None


def test_a_folder_that_cannot_be_written_is_a_data_error(tmp_path):
  (tmp_path / "file").write_text("in the way")
  with pytest.raises(DataError, match="cannot write"):
    sealed_folder.open_or_build(tmp_path / "file" / "store", lambda folder: None)


def test_fingerprint_changes_with_data_tokenizer_and_rules_and_with_nothing_else(context, folder, tmp_path):
  base = build(context, folder).fingerprint
  different = [dict(tokenizer={"name": "characters"}), dict(validation_fraction=0.2), dict(packing="pad"),
               dict(bos=False), dict(eod=False), dict(document_boundaries=False), dict(mixture="equal"),
               dict(deduplicate=True), dict(split="tail"), dict(domains="one"), dict(files="a/*")]
  prints = [build(context, folder, **knobs).fingerprint for knobs in different]
  assert len({base, *prints}) == len(prints) + 1
  assert build(type(context)(5, context.cache_dir), folder).fingerprint == base  # not the seed
  assert build(type(context)(0, tmp_path / "other"), folder).fingerprint == base  # not the cache
  copy = tmp_path / "copy"
  copy.mkdir()
  for path in sorted(folder.rglob("*")):
    target = copy / path.relative_to(folder)
    target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
  assert build(context, copy).fingerprint == base  # not the place, nor file times
  (copy / "b" / "00.txt").write_text("changed")
  assert build(context, copy).fingerprint != base


def test_a_digest_is_of_content_not_of_order_in_dicts():
  assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
  assert len({digest("ab"), digest("a", "b"), digest(["a", "b"]), digest("a", "b", None)}) == 4


def test_nothing_depends_on_hash_seed_working_directory_or_time_zone(tmp_path, folder):
  script = textwrap.dedent(f"""
      import hashlib, pathlib, sys
      from llm_jax.core.types import Plan
      from llm_jax.data import text_folder
      from llm_jax.data.corpus import DataContext
      corpus = text_folder.build(DataContext(0, pathlib.Path(sys.argv[1])), path={str(folder)!r}, mixture="equal",
                                 tokenizer={{"name": "sentencepiece", "vocab_size": 300}}, validation_fraction=0.1)
      batches = b"".join(corpus.train.take(i, Plan(8, 32))["tokens"].tobytes() for i in range(20))
      print(corpus.fingerprint, corpus.tokenizer.fingerprint, hashlib.sha256(batches).hexdigest())
  """)
  root = str(pathlib.Path(text_folder.__file__).parents[2])
  said = []
  for i, (seed, zone) in enumerate([("1", "UTC"), ("2", "Asia/Tokyo")]):
    work = tmp_path / f"work{i}"
    work.mkdir()
    env = os.environ | {"PYTHONHASHSEED": seed, "TZ": zone, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / f"cache{i}")], cwd=work, env=env,
                          text=True, capture_output=True, check=True)
    said.append(done.stdout)
  assert said[0] == said[1] and said[0].strip()


def test_large_vocabularies_are_stored_wide(tmp_path):
  class Wide:
    vocab_size, begin_of_document, end_of_document = 70_000, None, 69_999

    def encode_batch(self, texts):
      import numpy as np
      return [np.array([66_000, 1]) for _ in texts]

  from llm_jax.data.documents import Document
  token_store.write(tmp_path, [("train", Document("x", "d", "w"))], Wide(), bos=True, eod=True)
  (stream,) = token_store.read(tmp_path)
  assert stream.tokens.tolist() == [66_000, 1, 69_999] and stream.dtype == "<u4"


WORDPIECE = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789.,'",
             *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789")]


@pytest.fixture
def wordpiece(tmp_path):
  """A tokenizer that drops white space and puts nothing around a text."""
  (tmp_path / "vocabulary").mkdir()
  (tmp_path / "vocabulary" / "vocab.txt").write_text("\n".join(WORDPIECE))
  return {"name": "hub", "path": str(tmp_path / "vocabulary")}


@pytest.mark.parametrize("packing", ["concat", "pad", "best_fit", "stream"])
def test_a_text_without_a_token_is_left_out_and_told(context, folder, wordpiece, packing, caplog):
  rows = (folder / "a" / "rows.jsonl").read_text().splitlines()
  blank = json.dumps({"text": " \n"})
  knobs = dict(tokenizer=wordpiece, packing=packing, split="tail", validation_fraction=0.3)
  plain = build(type(context)(0, context.cache_dir / "plain"), folder, **knobs)
  (folder / "a" / "rows.jsonl").write_text("\n".join([blank, *rows[:50], blank, *rows[50:], blank]) + "\n")
  corpus = build(context, folder, **knobs)
  assert "3 rows left out" in caplog.text and f"{folder / 'a' / 'rows.jsonl'}:1" in caplog.text
  assert [s.documents for s in corpus.streams] == [s.documents for s in plain.streams]
  assert all((s.offsets[1:] > s.offsets[:-1]).all() for s in corpus.streams)
  assert corpus.evals["validation"].bytes_per_token == plain.evals["validation"].bytes_per_token
  assert first_batch(corpus) == first_batch(plain)


def test_a_row_of_texts_is_left_out_as_a_whole(context, tmp_path, wordpiece):
  asked = [{"prompt": f"what is {i}", "answer": " " if i % 10 == 3 else f"it is {i}"} for i in range(100)]
  path = tmp_path / "asked.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in asked))
  source = questions.QuestionFiles(str(path), None, ("prompt", "answer"), tmp_path)
  corpus_module.prepare(context, source, corpus_module.Rules(tokenizer=wordpiece, validation_fraction=0.2,
                                                             split="documents", bos=False, eod=False))
  streams = {(s.split, s.domain): s for s in token_store.read(stores(context)[0])}
  for split in ("train", "validation"):
    prompts, answers = streams[split, "prompt"], streams[split, "answer"]
    assert prompts.documents == answers.documents
    last = [[s.document(i)[-1] for i in range(s.documents)] for s in (prompts, answers)]
    assert last[0] == last[1], "an answer stands beside the prompt of another row"
  assert sum(s.documents for (_, name), s in streams.items() if name == "prompt") == 90


def test_many_domains_need_few_open_files(context, tmp_path):
  for i in range(150):
    (tmp_path / "many" / f"d{i}").mkdir(parents=True)
    (tmp_path / "many" / f"d{i}" / "text.txt").write_text(f"text {i} " * 30)
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  used = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 64
  resource.setrlimit(resource.RLIMIT_NOFILE, (used + 64, hard))
  try:
    corpus = build(context, tmp_path / "many", split="tail")
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
  assert len(corpus.streams) == 300
