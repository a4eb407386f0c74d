"""Tokenizers that leave with a folder encode and decode the same when the folder is read."""

import json

import jax
import numpy as np
import pytest

from llm_jax import hub
from llm_jax.core import plugins
from llm_jax.core.errors import CheckpointError
from llm_jax.data.tokenizers.bytes import ByteTokenizer
from llm_jax.data.tokenizers.characters import CharacterTokenizer
from llm_jax.models import gpt

TEXT = "The é ünï\n\n  tabs\t ok — 日本 x\r\n"


OURS = {"bytes": ByteTokenizer(("eod", "bos", "pad")),
        "sentinels": ByteTokenizer(("eod", "pad", "mask"), 5),
        "characters": CharacterTokenizer("".join(sorted(set(TEXT))), ("eod",))}


@pytest.mark.parametrize("tokenizer", OURS.values(), ids=OURS)
def test_exported_tokenizers_encode_the_same(tokenizer, tmp_path):
  model = gpt.build(tokenizer.vocab_size, 8, variant="debug", depth=1)
  hub.save(tmp_path, model, model.init(jax.random.key(0)), tokenizer)
  _, _, read = hub.load(tmp_path)
  assert read is not None and read.vocab_size == tokenizer.vocab_size
  assert np.array_equal(read.encode(TEXT), tokenizer.encode(TEXT))
  assert read.decode(read.encode(TEXT)) == TEXT
  assert read.end_of_document == tokenizer.end_of_document
  recipe = plugins.bind("data/tokenizers", dict(name="hub", path=str(tmp_path)), "config.data.tokenizer")(None)
  assert recipe.train(()).sentinels == tokenizer.sentinels
  assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == tokenizer.end_of_document
  hub.save(tmp_path / "again", model, model.init(jax.random.key(0)), read)
  assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_a_damaged_tokenizer_is_named(tmp_path):
  (tmp_path / "tokenizer.json").write_text("{}")
  with pytest.raises(CheckpointError, match=r"tokenizer\.json: not readable"):
    hub.find_tokenizer(tmp_path).encode("x")
