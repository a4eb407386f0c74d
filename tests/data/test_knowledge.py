"""Knowledge graphs: reading them, making one of sources, their vectors, and the names of their entities in rows."""

import pickle
import re

import numpy as np
import pytest

from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.types import Plan
from llm_jax.data import knowledge_graph, knowledge_text, stdlib_graph, transe
from llm_jax.data.corpus import DataContext
from llm_jax.data.entity_links import Linker
from llm_jax.data.tokenizers import bytes as byte_tokenizer
from llm_jax.data.tokenizers import sentencepiece

SOURCES = {
    "shapes/__init__.py": "from .base import Shape\nimport tools\n",
    "shapes/base.py": "class Shape:\n  pass\n\nclass _Hidden(Shape):\n  pass\n",
    "shapes/round.py": "from shapes.base import Shape as S\nfrom shapes import base\n\nclass Circle(S):\n  pass\n\n"
                       "class Ring(base.Shape):\n  pass\n\ndef area():\n  pass\n",
    "tools.py": "def area():\n  pass\n\nclass Odd(Unknown):\n  pass\n",
    "broken.py": "def (:\n",
}


def test_a_graph_of_sources_has_the_triples_that_they_say():
  graph = stdlib_graph.graph_of(SOURCES)
  found = {(graph.entities[h], graph.relations[r], graph.entities[t]) for h, r, t in graph.triples}
  assert found == {
      ("shapes.base", "part_of", "shapes"), ("shapes.round", "part_of", "shapes"), ("shapes", "imports", "shapes.base"),
      ("shapes", "imports", "tools"), ("shapes.round", "imports", "shapes.base"), ("shapes.round", "imports", "shapes"),
      ("shapes.base.Shape", "defined_in", "shapes.base"), ("shapes.round.Circle", "defined_in", "shapes.round"),
      ("shapes.round.Ring", "defined_in", "shapes.round"), ("shapes.round.area", "defined_in", "shapes.round"),
      ("tools.area", "defined_in", "tools"), ("tools.Odd", "defined_in", "tools"),
      ("shapes.round.Circle", "inherits", "shapes.base.Shape"), ("shapes.round.Ring", "inherits", "shapes.base.Shape")}
  assert graph.entities[graph.names["Circle"]] == graph.entities[graph.names["shapes.round.Circle"]]
  assert "area" not in graph.names and "tools.area" in graph.names  # two entities have that name


def test_a_graph_is_read_as_it_was_written(tmp_path):
  graph = stdlib_graph.graph_of(SOURCES)
  knowledge_graph.write(tmp_path, graph)
  again = knowledge_graph.read(*knowledge_graph.files(tmp_path))
  assert again.fingerprint == graph.fingerprint and dict(again.names) == dict(graph.names)


@pytest.mark.parametrize("text, problem", [
    ("a\tin\tb\nc\tin\n", r"triples.tsv:2: 2 columns, not 3"), ("", "no triples"), ("a\t\tb\n", r"triples.tsv:1: "),
    (None, "cannot be read")])
def test_a_file_that_is_no_graph_is_refused_with_its_line(tmp_path, text, problem):
  path = tmp_path / "triples.tsv"
  if text is not None:
    path.write_text(text)
  with pytest.raises(DataError, match=problem):
    knowledge_graph.read(path)


def ring(size=24):
  """Each entity is next to the following one: one relation that a translation in a plane can nearly say."""
  return knowledge_graph.make((f"e{i:02d}", "near" if i % 2 else "next", f"e{(i * 7 + 1) % size:02d}")
                              for i in range(size))


def test_vectors_bring_true_triples_nearer_than_others_and_repeat(tmp_path):
  graph = ring()
  entities, relations = transe.train(graph, transe.settings(width=8, epochs=400, batch=24))
  np.testing.assert_allclose(np.linalg.norm(entities, axis=-1), 1, rtol=1e-5)
  heads, kinds, tails = graph.triples.T
  distances = np.linalg.norm((entities[heads] + relations[kinds])[:, None] - entities[None], axis=-1)
  ranks = (distances < distances[np.arange(len(tails)), tails][:, None]).sum(1)
  assert ranks.mean() < 2 and len(graph.entities) == 24  # 11.5 by chance
  settings = transe.settings(width=8, epochs=2, batch=24)
  first = transe.vectors_of(graph, settings, tmp_path)
  np.testing.assert_array_equal(first, transe.vectors_of(graph, settings, tmp_path))
  np.testing.assert_array_equal(first, transe.train(graph, settings)[0])
  with pytest.raises(ConfigError, match=r"config.data.transe.width"):
    transe.settings(width=0)


NAMES = {"json": 1, "json.decoder": 2, "New York": 3, "York": 4, "JSONDecoder": 5}
TEXT = " see json.decoder and json, in New\n York (not York); JSONDecoders, then a JSONDecoder.\n"
FOUND = [("json.decoder", 2), ("json", 1), ("New\n York", 3), ("York", 4), ("JSONDecoder", 5)]


def tokenizers(texts):
  yield byte_tokenizer.build(None).train(())
  yield sentencepiece.build(None, vocab_size=300).train(texts)


def test_the_longest_exact_names_are_found_where_they_start():
  for tokenizer in tokenizers([TEXT * 3, "json decoder New York JSONDecoder"]):
    ids = tokenizer.encode(TEXT)
    lengths = np.concatenate([[0], np.cumsum(tokenizer.token_bytes[ids])])
    links = Linker(NAMES, tokenizer).mentions(ids)
    assert [entity for _, entity in links] == [entity for _, entity in FOUND]
    at = 0
    for (place, _), (name, _) in zip(links, FOUND):
      at = re.compile(rf"\b{name}\b").search(TEXT, at).start()
      assert lengths[place] <= at < lengths[place + 1]
      at += len(name)


def test_words_cut_by_the_row_or_parted_by_a_document_name_nothing():
  tokenizer = byte_tokenizer.build(None).train(())
  linker = Linker(NAMES, tokenizer)
  assert linker.mentions(tokenizer.encode("json and York")) == []
  parted = np.concatenate([tokenizer.encode(" JSON"), [tokenizer.special["eod"]], tokenizer.encode("Decoder ")])
  assert linker.mentions(parted) == []


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  folder = tmp_path_factory.mktemp("knowledge")
  (folder / "texts").mkdir()
  words = ["apple", "pear", "plum", "quince", "grows", "falls", "and", "rots"]
  draw = np.random.default_rng(0)
  for i in range(60):
    (folder / "texts" / f"{i}.txt").write_text(" ".join(draw.choice(words, 200)))
  rows = [("apple", "is", "fruit"), ("pear", "is", "fruit"), ("plum", "is", "stone fruit"), ("quince", "is", "fruit"),
          ("stone fruit", "is", "fruit")]
  (folder / "triples.tsv").write_text("".join("\t".join(r) + "\n" for r in rows))
  text = dict(name="text_folder", path=str(folder / "texts"), tokenizer=dict(name="bytes"))
  return knowledge_text.build(DataContext(0, folder / "cache"), text=text, triples=str(folder / "triples.tsv"), slots=6,
                              others=2, transe=dict(width=4, epochs=2))


def test_rows_say_which_entities_they_name_and_where(corpus):
  batch = corpus.train.take(3, Plan(batch=4, length=64))
  assert set(batch) == set(corpus.train.fields)
  named = 0
  for row in range(4):
    ids, labels = batch["entity_ids"][row], batch["entity_labels"][row]
    real = ids[ids >= 0]
    assert len(set(real.tolist())) == len(real) <= 6
    assert (batch["entity_mask"][row] == (ids >= 0)).all()
    assert (batch["entity_vectors"][row][ids < 0] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(batch["entity_vectors"][row][ids >= 0], axis=-1), 1, rtol=1e-5)
    for place in np.flatnonzero(labels >= 0):
      entity = sorted({"apple", "pear", "plum", "quince", "fruit", "stone fruit"})[ids[labels[place]]]
      assert corpus.tokenizer.decode(batch["tokens"][row][place:place + len(entity)]) == entity
      named += 1
  assert named > 8


def test_rows_are_a_function_of_step_and_plan_whoever_takes_them(corpus):
  plan = Plan(batch=4, length=64)
  source = pickle.loads(pickle.dumps(corpus.train))  # noqa: S301
  whole, part = corpus.train.take(5, plan), source.take(5, plan, slice(2, 4))
  for name, values in part.items():
    np.testing.assert_array_equal(values, whole[name][2:4])
  evaluation = corpus.evals["validation"]
  assert evaluation.batches(4, 64) > 0 and set(evaluation.take(0, plan)) == set(evaluation.fields)


def test_slots_that_cannot_be_are_refused(tmp_path):
  with pytest.raises(ConfigError, match=r"config.data.others"):
    knowledge_text.build(DataContext(0, tmp_path), text=dict(name="stdlib"), slots=4, others=4)
