"""The plug-ins: text folders, the standard library, TFDS without TensorFlow; and how documents are split."""

import hashlib
import socket
import sys
import urllib.request

import pytest
from made_texts import make_texts

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.types import Plan
from llm_jax.data import stdlib, text_folder, tfds
from llm_jax.data.documents import Document
from llm_jax.data.splitting import split_documents
from llm_jax.data.text_files import files_below

BYTES = {"name": "bytes"}


def sizes(corpus):
  return {(s.split, s.domain): s.documents for s in corpus.streams}


def build(context, path, **knobs):
  return text_folder.build(context, path=str(path), **{"tokenizer": BYTES, "validation_fraction": 0.1, **knobs})


@pytest.mark.parametrize("name", ["stdlib", "text_folder", "tfds"])
def test_every_knob_is_documented(name):
  module = plugins.find("data", name, "config.data.name")
  assert all(knob.meaning for knob in plugins.knobs_of(module.build).values())


@pytest.mark.parametrize("name", ["bytes", "characters", "sentencepiece", "hub"])
def test_every_tokenizer_knob_is_documented(name):
  module = plugins.find("data/tokenizers", name, "config.data.tokenizer.name")
  assert all(knob.meaning for knob in plugins.knobs_of(module.build).values())


def test_top_level_folders_are_domains(context, folder):
  (folder / ".git").mkdir()
  (folder / ".git" / "hidden.txt").write_text("not data")
  (folder / "picture.png").write_bytes(b"\x89PNG")
  (folder / "top.md").write_text("a file at the top")
  assert {d for _, d in sizes(build(context, folder))} == {"a", "b", "text"}


def test_domains_by_pattern_leave_out_the_rest(context, folder):
  corpus = build(context, folder, domains={"rows": "*.jsonl", "zero": "b/0*"})
  found = sizes(corpus)
  assert {d for _, d in found} == {"rows", "zero"}
  assert found["train", "zero"] + found["validation", "zero"] in (10, 11)  # the tail cuts one document in two


def test_own_validation_folder(context, folder, tmp_path):
  held = tmp_path / "held"
  held.mkdir()
  (held / "x.txt").write_text("held out text")
  corpus = build(context, folder, validation_path=str(held))
  assert sizes(corpus) == {("train", "a"): 120, ("train", "b"): 40, ("validation", "text"): 1}
  assert set(corpus.evals) == {"validation"}


def test_files_held_out_of_a_folder_are_not_trained_on(context, folder):
  corpus = build(context, folder, validation_path=str(folder / "b"))
  assert sizes(corpus) == {("train", "a"): 120, ("validation", "text"): 40}
  for path, held_out in ((folder, folder), (folder / "b" / "00.txt", folder)):
    with pytest.raises(ConfigError, match=r"config\.data\.validation_path.*none is left"):
      build(context, path, validation_path=str(held_out))


def test_links_to_folders_are_followed_once_for_each_path_and_not_in_circles(tmp_path):
  for name in ("texts/b/one.txt", "elsewhere/x.txt", "elsewhere/.hidden.txt"):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("text")
  texts = tmp_path / "texts"
  for link, target in (("a", "../elsewhere"), ("b/up", ".."), ("c", "b"), ("b/self", "self"), ("d.txt", "b/one.txt")):
    (texts / link).symlink_to(target)
  assert files_below(texts) == ["a/x.txt", "b/one.txt", "b/self", "c/one.txt", "c/self", "d.txt"]
  assert files_below(texts / "nowhere") == []


def test_the_domain_of_a_linked_folder_is_the_link(context, folder, tmp_path):
  (tmp_path / "mixture").mkdir()
  for link, target in (("first", "a"), ("second", "b")):
    (tmp_path / "mixture" / link).symlink_to(folder / target)
  corpus = build(context, tmp_path / "mixture", split="documents")
  assert {d for _, d in sizes(corpus)} == {"first", "second"} and sum(sizes(corpus).values()) == 160


@pytest.mark.parametrize("knobs, says", [
    (dict(path="nowhere"), "no such file"), (dict(validation_fraction=0.0), "validation_fraction"),
    (dict(mixture={"c": 1}), "unknown domain 'c'"), (dict(files="*.xyz"), "no file in"),
    (dict(validation_path="nowhere"), "validation_path")])
def test_mistakes_are_named(context, folder, knobs, says):
  with pytest.raises((ConfigError, DataError), match=says):
    build(context, knobs.pop("path", folder), **knobs)


def test_deduplication_keeps_the_first(context, tmp_path):
  for i in range(10):
    (tmp_path / f"{i}.txt").write_text(make_texts(5)[i % 5])
  assert sum(sizes(build(context, tmp_path, split="tail", deduplicate=True)).values()) in (5, 6)


def documents(texts, domain="d"):
  return lambda: iter([Document(t, domain, "w") for t in texts])


def test_tail_split_is_the_last_part_of_the_text():
  texts = make_texts(30)
  parts = list(split_documents(documents(texts), "tail", 0.1))
  joined = {s: "".join(d.text for split, d in parts if split == s) for s in ("train", "validation")}
  whole = "".join(texts)
  assert joined["train"] == whole[:int(len(whole) * 0.9)] and joined["validation"] == whole[int(len(whole) * 0.9):]


def test_hash_split_ignores_order_and_keeps_groups_together():
  texts = make_texts(400)
  one = {d.text: s for s, d in split_documents(documents(texts), "documents", 0.2)}
  other = {d.text: s for s, d in split_documents(documents(texts[::-1]), "documents", 0.2)}
  assert one == other
  assert 0.12 < sum(s == "validation" for s in one.values()) / 400 < 0.28
  grouped = lambda: iter([Document(t, "d", "w", group="same") for t in texts])
  assert len({s for s, _ in split_documents(grouped, "documents", 0.2)}) == 1


def test_auto_splits_documents_where_there_are_enough():
  assert [s for s, _ in split_documents(documents(["word " * 100]), "auto", 0.1)] == ["train", "validation"]
  many = make_texts(300)
  assert list(split_documents(documents(many), "auto", 0.1)) == list(split_documents(documents(many), "documents", 0.1))


def test_standard_library(context):
  """One module's worth of it, through the real reader."""
  import pathlib
  import sysconfig

  source = stdlib.StandardLibrary(pathlib.Path(sysconfig.get_path("stdlib")) / "json", ("prose", "code"))
  rows = list(source.documents())
  code = {d.group for d in rows if d.domain == "code"}
  docs = {d.group for d in rows if d.domain == "prose" and not d.group.startswith("topic")}
  assert "decoder.py" in code and "decoder.py" in docs and not any("test" in name for name in code)
  assert any(d.group.startswith("topic") and len(d.text) > 1000 for d in rows)
  assert source.fingerprint == stdlib.StandardLibrary(source._folder, ("prose", "code")).fingerprint
  assert source.fingerprint != stdlib.StandardLibrary(source._folder, ("code",)).fingerprint


def test_docstrings_are_read_in_order_and_bad_code_has_none():
  code = ('class A:\n  """First."""\n  if 1:\n    def f():\n      """Second\n         line."""\n'
          'def g():\n  """Third."""\n')
  assert list(stdlib.docstrings(code)) == ["First.", "Second\nline.", "Third."]
  assert list(stdlib.docstrings("print 'old'")) == []


def test_fallback_text(context):
  corpus = stdlib.build(context, text="fallback", tokenizer=BYTES)
  assert {d for _, d in sizes(corpus)} == {"prose"}
  assert 100_000 < sum(s.text_bytes for s in corpus.streams) < 200_000
  texts = corpus.tokenizer.decode(corpus.streams[0].tokens)
  assert texts.startswith("Genesis 1\n") and "# " not in texts and "public domain" not in texts.lower()
  assert corpus.train.take(0, Plan(4, 64))["tokens"].shape == (4, 64)


@pytest.mark.slow
def test_the_whole_standard_library(context):
  corpus = stdlib.build(context)
  assert set(corpus.evals) == {"validation", "validation/prose", "validation/code"}
  by_domain = {s.domain: s for s in corpus.streams if s.split == "train"}
  assert by_domain["prose"].text_bytes > 1_000_000 and by_domain["code"].text_bytes > 5_000_000
  domain, *_ = corpus.train.examples(3, Plan(64, 128))
  assert (domain == 0).mean() == 0.5


@pytest.fixture
def shakespeare(tmp_path, monkeypatch):
  """tiny_shakespeare with another text: its builder, its file name, and the checksum of that text."""
  module = pytest.importorskip("tensorflow_datasets")
  builder = module.builder_cls("tiny_shakespeare")
  text = "\n".join(make_texts(200))
  folder = tmp_path / "manual"
  folder.mkdir()
  (folder / "input.txt").write_text(text)
  (url, info), = builder.url_infos.items()
  checksum = hashlib.sha256(text.encode()).hexdigest()
  new = type(info)(size=module.core.utils.Size(len(text)), checksum=checksum, filename="input.txt")
  monkeypatch.setitem(builder.url_infos, url, new)
  return folder, text


def test_tiny_shakespeare_offline_without_tensorflow(context, shakespeare):
  folder, text = shakespeare
  knobs = dict(tokenizer={"name": "characters"}, document_boundaries=False)
  corpus = tfds.build(context, dataset="tiny_shakespeare", manual_dir=str(folder),
                      validation_split="validation+test", **knobs)
  parts = {s.split: corpus.tokenizer.decode(s.tokens) for s in corpus.streams}
  cut = int(len(text) * 0.9)
  assert parts == {"train": text[:cut], "validation": text[cut:]}  # nanoGPT's split
  assert corpus.vocab_size == len(set(text))
  assert "tensorflow" not in sys.modules
  by_folder = build(context, folder, split="tail", **knobs)
  assert by_folder.train.streams[0].tokens.tolist() == corpus.train.streams[0].tokens.tolist()
  own = tfds.build(context, dataset="tiny_shakespeare", manual_dir=str(folder), **knobs)
  assert own.fingerprint != corpus.fingerprint  # TFDS's own split
  with pytest.raises(ConfigError, match="has no split 'valid'"):
    tfds.build(context, dataset="tiny_shakespeare", manual_dir=str(folder), validation_split="valid", **knobs)
  with pytest.raises(DataError, match="no feature 'body'"):
    tfds.build(context, dataset="tiny_shakespeare", manual_dir=str(folder), text_column="body", **knobs)


def test_a_changed_download_is_refused(context, shakespeare):
  folder, text = shakespeare
  (folder / "input.txt").write_text(text + "more")
  with pytest.raises(DataError, match=r"(?s)NonMatchingChecksumError.*manual_dir: input.txt"):
    tfds.build(context, dataset="tiny_shakespeare", manual_dir=str(folder), tokenizer=BYTES)


def test_no_network_is_said_at_once(context, monkeypatch):
  pytest.importorskip("tensorflow_datasets")
  def unknown(*_):
    raise socket.gaierror("Name or service not known")
  monkeypatch.setattr(socket, "getaddrinfo", unknown)
  monkeypatch.setattr(urllib.request, "getproxies", dict)
  with pytest.raises(DataError, match=r"(?s)no network: raw.githubusercontent.com.*manual_dir: input.txt"):
    tfds.build(context, dataset="tiny_shakespeare", tokenizer=BYTES)


def test_unknown_datasets_get_the_nearest_name(context):
  pytest.importorskip("tensorflow_datasets")
  with pytest.raises(ConfigError, match="did you mean: tiny_shakespeare"):
    tfds.build(context, dataset="tiny_shakespear", tokenizer=BYTES)


@pytest.mark.parametrize("dataset, says", [
    ("tiny_shakespeare:9.9.9", "did you mean: tiny_shakespeare:1.0.0"), ("glue/colla", "did you mean: glue/cola"),
    ("", r"accepted: dataset, dataset/config"), ("a/b/c", r"accepted: dataset, dataset/config"),
    ("tiny_shakespeare/", "accepted: tiny_shakespeare, tiny_shakespeare:1.0.0")])
def test_a_config_or_version_that_is_not_there_is_named(context, dataset, says):
  pytest.importorskip("tensorflow_datasets")
  with pytest.raises(ConfigError, match=rf"(?s)config\.data\.dataset: got '{dataset}'.*{says}"):
    tfds.build(context, dataset=dataset, tokenizer=BYTES)


@pytest.mark.parametrize("key", ["manual_dir", "data_dir"])
def test_an_empty_folder_of_tfds_is_not_the_one_that_we_are_in(context, key):
  with pytest.raises(ConfigError, match=rf"config\.data\.{key}: got ''"):
    tfds.build(context, dataset="tiny_shakespeare", tokenizer=BYTES, **{key: ""})


def test_nothing_is_downloaded_where_the_downloads_should_be_in_a_folder(context, shakespeare, monkeypatch):
  folder, _ = shakespeare
  (folder / "input.txt").unlink()
  def call(*_, **__):
    raise AssertionError("the network was asked")
  monkeypatch.setattr(socket, "getaddrinfo", call)
  monkeypatch.setattr(socket.socket, "connect", call)
  with pytest.raises(ConfigError, match=r"config\.data\.manual_dir: '.*/manual' has no input\.txt"):
    tfds.build(context, dataset="tiny_shakespeare", manual_dir=str(folder), tokenizer=BYTES)
