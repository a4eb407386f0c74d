"""Tokenizers are lossless, keep special ids out of text's reach, and come back from a folder."""

import numpy as np
import pytest
from made_texts import make_texts

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError, DataError
from llm_jax.data import tokenizers

HARD = ["", " ", "  two  spaces ", "\n\n\tindented\r\n", "a▁b ▁", "▁", "日本語 é̀ 🎉\U0010ffff", "\x00\x01\x7f",
        "<s></s><mask><eod><0x0A>[CLS]<|endoftext|>", "12345", "\ufeffbom\u2028line\u00a0", "def f(x):\n    return x\n"]


def hub_file(folder):
  library = pytest.importorskip("tokenizers")
  tokenizer = library.Tokenizer(library.models.BPE())
  tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = library.decoders.ByteLevel()
  trainer = library.trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False,
                                        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet())
  tokenizer.train_from_iterator(make_texts(50), trainer)
  tokenizer.save(str(folder / "tokenizer.json"))
  return {"name": "hub", "path": str(folder)}


SPECS = {"bytes": {"name": "bytes"}, "characters": {"name": "characters", "special": ("eod", "mask")},
         "bpe": {"name": "sentencepiece", "vocab_size": 330},
         "unigram": {"name": "sentencepiece", "vocab_size": 330, "model_type": "unigram"}, "hub": None}


@pytest.fixture(scope="module", params=list(SPECS))
def tokenizer(request, tmp_path_factory):
  spec = SPECS[request.param] or hub_file(tmp_path_factory.mktemp("hub"))
  recipe = plugins.bind("data/tokenizers", spec, "config.data.tokenizer")(None)
  return recipe.train(make_texts(50) + HARD)


def test_round_trip(tokenizer):
  for text in HARD + make_texts(20, seed=3):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and ids.ndim == 1
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())
    assert ids.size == 0 or (ids.min() >= 0 and ids.max() < tokenizer.vocab_size)
    assert not set(ids.tolist()) & set(tokenizer.special.values())  # no text can make a special id


def test_batches_encode_alike(tokenizer):
  for text, ids in zip(HARD, tokenizer.encode_batch(HARD)):
    assert ids.tolist() == tokenizer.encode(text).tolist()


def test_special_ids_decode_to_nothing_and_outsiders_are_refused(tokenizer):
  assert tokenizer.decode(list(tokenizer.special.values())) == ""
  with pytest.raises(DataError, match="vocabulary"):
    tokenizer.decode([tokenizer.vocab_size])


def test_saved_and_loaded_is_the_same(tokenizer, tmp_path):
  tokenizer.save(tmp_path)
  again = tokenizers.load(tmp_path)
  assert again.fingerprint == tokenizer.fingerprint
  assert again.special == tokenizer.special and again.vocab_size == tokenizer.vocab_size
  assert all(again.encode(t).tolist() == tokenizer.encode(t).tolist() for t in HARD)


def test_damage_is_noticed(tokenizer, tmp_path):
  tokenizer.save(tmp_path)
  for path in sorted(tmp_path.iterdir()):
    content = path.read_bytes()
    path.write_bytes(content[:-2])
    with pytest.raises(DataError, match="tokenizer"):
      tokenizers.load(tmp_path)
    path.write_bytes(content)
  assert tokenizers.load(tmp_path).fingerprint == tokenizer.fingerprint


def make(**spec):
  return plugins.bind("data/tokenizers", spec, "config.data.tokenizer")(None)


def test_characters_are_exactly_those_of_the_text():
  tokenizer = make(name="characters").train(["bca", "da"])
  assert tokenizer.vocab_size == 4 and tokenizer.alphabet == "abcd" and not tokenizer.special
  with pytest.raises(DataError, match="'z'"):
    tokenizer.encode("az")


def test_sentencepiece_layout_and_determinism():
  texts = make_texts(50)
  first, second = (make(name="sentencepiece", vocab_size=300).train(iter(texts)) for _ in range(2))
  assert first.fingerprint == second.fingerprint
  assert first.vocab_size == 300
  assert first.special == {"unk": 0, "bos": 1, "eos": 2, "pad": 3, "cls": 4, "sep": 5, "mask": 6, "eod": 7}


def test_sentencepiece_newlines_and_indentation_are_pieces():
  text = "class A:\n    def f(self):\n        return 1\n" * 50
  tokenizer = make(name="sentencepiece", vocab_size=300).train([text])
  assert len(tokenizer.encode("\n        ")) <= 4  # nine characters
  assert len(tokenizer.encode("\n")) == 1


def test_the_training_sample_does_not_depend_on_the_order_of_documents():
  from llm_jax.data.tokenizers.sentencepiece import sample

  texts = make_texts(200)
  taken = sample(texts, 3000)
  assert sorted(taken) == sorted(sample(texts[::-1], 3000))
  assert 2500 < sum(len(t.encode()) for t in taken) <= 3000


@pytest.mark.parametrize("spec, says", [
    ({"name": "sentencepiece", "vocab_size": 100}, "at least 265"),
    ({"name": "sentencepiece", "vocab_size": 30_000}, r"got 30000, more than this .*\n  accepted: at most \d+"),
    ({"name": "sentencepiece", "vocab_size": 265}, r"got 265, fewer than the char.*\n  accepted: at least \d+"),
    ({"name": "hub", "path": ""}, "got ''"),
    ({"name": "bytes", "special": ("eof",)}, "did you mean: eo"),
    ({"name": "hub", "path": "nowhere"}, "no tokenizer.json"),
    ({"name": "sentencepeice"}, "did you mean: sentencepiece")])
def test_mistakes_are_config_errors(spec, says):
  with pytest.raises(ConfigError, match=says):
    make(**spec).train(make_texts(20))


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
  pytest.importorskip("tokenizers")
  (tmp_path / "tokenizer.json").write_text("{}")
  with pytest.raises(DataError, match="not a tokenizer"):
    make(name="hub", path=str(tmp_path))
