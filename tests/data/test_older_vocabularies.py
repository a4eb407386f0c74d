"""Folders without a tokenizer.json: WordPiece, byte pairs and Unigram from their own files."""

import io
import json

import pytest

from llm_jax import hub
from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError, DataError
from llm_jax.data import tokenizers as rooms
from llm_jax.data.tokenizers import older_files

tokenizers = pytest.importorskip("tokenizers")
sentencepiece = pytest.importorskip("sentencepiece")

TEXT = ["the law of the land", "Hello, unknown words!", "  two  spaces and\ttabs ", "naïve café ﬁ 日本", "",
        "a b c " * 9]
WORDPIECE = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "law", "##s", "of", "un", "##known", ",", "na",
             "##ive"]


def read(folder):
  """The folder's tokenizer as the data room and as the hub have it."""
  recipe = plugins.bind(rooms.ROOM, dict(name="hub", path=str(folder)), "config.data.tokenizer")(None)
  return recipe.train(()), hub.find_tokenizer(folder)


def test_wordpiece_from_vocab_txt(tmp_path):
  (tmp_path / "vocab.txt").write_text("\n".join(WORDPIECE))
  ours, found = read(tmp_path)
  named = lambda ids: [WORDPIECE[i] for i in ids]
  assert named(ours.encode("The LAWS, of naïve")) == ["the", "law", "##s", ",", "of", "na", "##ive"]
  assert named(found.encode("the", "law xyz", special=True)) == ["[CLS]", "the", "[SEP]", "law", "[UNK]", "[SEP]"]
  assert ours.special == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4} == found.special
  assert ours.decode(ours.encode("the laws")) == "the laws" and ours.vocab_size == len(WORDPIECE)
  assert ours.word_edges[:, 0].tolist() == [not t.startswith("##") for t in WORDPIECE]
  (tmp_path / "vocab.txt").write_text("\n".join([*WORDPIECE, "The"]))
  assert read(tmp_path)[0].encode("The the").tolist() == [len(WORDPIECE), 5]  # capital pieces: a cased vocabulary
  (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
  assert read(tmp_path)[0].encode("The the").tolist() == [5, 5]


@pytest.mark.parametrize("family", ["gpt2", "roberta"])
def test_byte_pairs_from_vocab_and_merges(family, tmp_path):
  special = {"gpt2": ["<|endoftext|>"], "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]}[family]
  made = tokenizers.Tokenizer(tokenizers.models.BPE())
  made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.train_from_iterator(TEXT * 20, tokenizers.trainers.BpeTrainer(
      vocab_size=300, special_tokens=special, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False))
  made.model.save(str(tmp_path))
  ours, found = read(tmp_path)
  for text in TEXT:
    ids = made.encode(text, add_special_tokens=False).ids
    assert ours.encode(text).tolist() == ids and ours.decode(ids) == text
    around = [0, *ids, 2] if family == "roberta" else ids
    assert found.encode(text, special=True).tolist() == around
  pair = found.encode("a", "b", special=True).tolist()
  a, b = (made.encode(t).ids for t in "ab")
  assert pair == ([0, *a, 2, 2, *b, 2] if family == "roberta" else [*a, *b])


@pytest.fixture(scope="module")
def trained():
  """{family: bytes of a Unigram model with its family's control pieces and SentencePiece's usual normalisation}."""
  layouts = {"t5": dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
             "xlnet": dict(unk_id=0, bos_id=1, eos_id=2, pad_id=5, control_symbols=["<cls>", "<sep>", "<mask>"]),
             "deberta": dict(pad_id=0, bos_id=1, eos_id=2, unk_id=3, bos_piece="[CLS]", eos_piece="[SEP]",
                             pad_piece="[PAD]", unk_piece="[UNK]")}
  found = {}
  for family, layout in layouts.items():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter([t.strip() for t in TEXT if t] * 30),
                                             model_writer=model, vocab_size=60, model_type="unigram", minloglevel=2,
                                             hard_vocab_limit=False, **layout)
    found[family] = model.getvalue()
  return found


@pytest.mark.parametrize("family, around", [("t5", ([], ["</s>"])), ("xlnet", ([], ["<sep>", "<cls>"])),
                                            ("deberta", (["[CLS]"], ["[SEP]"]))])
def test_unigram_from_its_model(trained, family, around, tmp_path):
  name = {"deberta": "spm.model"}.get(family, "spiece.model")
  (tmp_path / name).write_bytes(trained[family])
  if family == "xlnet":
    (tmp_path / "config.json").write_text(json.dumps(dict(model_type="xlnet")))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(dict(keep_accents=True)))
  theirs = sentencepiece.SentencePieceProcessor(model_proto=trained[family])
  ours, found = read(tmp_path)
  for text in [*TEXT, "a </s> law", "<pad><unk> the <extra_id_0> law <sep>[SEP] [CLS]", "<mask>[MASK]"]:
    assert ours.encode(text).tolist() == theirs.encode(text), text  # what looks like a special token is text
    assert not {*ours.encode(text).tolist()} & {*ours.reserved} - {ours.special["unk"]}
  ids = {theirs.id_to_piece(i): i for i in range(theirs.get_piece_size())}
  before, behind = ([ids[t] for t in part] for part in around)
  assert found.encode("the law", special=True).tolist() == [*before, *theirs.encode("the law"), *behind]
  if family == "t5":
    top = theirs.get_piece_size() + 99
    assert ours.sentinels == tuple(range(top, top - 100, -1)) and ours.special["eos"] == 1
  if family == "deberta":
    assert ours.special["mask"] == theirs.get_piece_size()


@pytest.mark.parametrize("content", ["{", "[1]"])
@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("vocabulary", ["vocab.txt", "tokenizer.json"])
def test_damaged_files_beside_a_vocabulary_are_named(vocabulary, name, content, tmp_path):
  (tmp_path / "vocab.txt").write_text("\n".join(WORDPIECE))
  if vocabulary == "tokenizer.json":
    (tmp_path / vocabulary).write_bytes(older_files.find(tmp_path))
  (tmp_path / name).write_text(content)
  with pytest.raises(DataError, match=name):
    read(tmp_path)


def test_what_cannot_be_read_is_named(trained, tmp_path):
  with pytest.raises(ConfigError, match=r"no tokenizer\.json and no vocabulary"):
    read(tmp_path)
  assert hub.find_tokenizer(tmp_path) is None
  (tmp_path / "spiece.model").write_bytes(trained["t5"][:-3])
  with pytest.raises(DataError, match="cut off"):
    older_files.find(tmp_path)
  merges = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXT[:2] * 30), model_writer=merges, vocab_size=40,
                                           model_type="bpe", minloglevel=2, hard_vocab_limit=False)
  (tmp_path / "spiece.model").write_bytes(merges.getvalue())
  with pytest.raises(ConfigError, match="pair merges"):
    older_files.find(tmp_path)
