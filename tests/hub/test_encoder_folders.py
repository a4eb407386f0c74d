"""Hugging Face folders of the BERT family: every head, published layouts, what is left behind, what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_jax import hub
from llm_jax.core.errors import CheckpointError, ConfigError
from llm_jax.models import bert, electra
from llm_jax.models.bert_encoder import BertConfig

TINY = dict(vocab_size=31, width=16, depth=3, heads=2, hidden=24, positions=20)
ELECTRA = electra.ELECTRA | dict(embed_width=12)
MODELS = {
    **{f"bert_{head}": dict(head=head) for head in ("lm", "pretraining", "next_sentence", "sequence", "token",
                                                    "question", "choice", "none")},
    "bert_untied": dict(tied=False),
    **{f"roberta_{head}": bert.ROBERTA | dict(head=head) for head in ("lm", "sequence", "choice", "none")},
    "roberta_untied": bert.ROBERTA | dict(tied=False),
    **{f"distilbert_{head}": bert.DISTILBERT | dict(head=head) for head in ("lm", "sequence", "question", "none")},
    "distilbert_untied": bert.DISTILBERT | dict(tied=False),
    **{f"electra_{head}": ELECTRA | dict(head=head) for head in ("lm", "replaced", "sequence", "choice", "none")},
    "electra_untied": ELECTRA | dict(tied=False),
    "ernie_pretraining": dict(family="ernie", task_types=3, head="pretraining"), "ernie_lm": dict(family="ernie"),
}


def tiny(name="bert_lm", **more):
  return bert.from_config(BertConfig(**MODELS[name] | TINY | more))


def made(model):
  """Parameters that all differ, so that a swap shows."""
  params = model.init(jax.random.key(0))
  return {n: np.asarray(p) + np.arange(p.size, dtype=np.float32).reshape(p.shape) / 64 for n, p in params.items()}


def equal(a, b):
  return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)


def saved(folder, name="bert_lm", **more):
  """The parameters of a folder that was just written."""
  model = tiny(name, **more)
  hub.save(folder, model, made(model))
  return made(model)


def rewrite(folder, change):
  """Applies `change` to the dict of tensors of a folder."""
  tensors = load_file(folder / "model.safetensors")
  save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder, **keys):
  said = json.loads((folder / "config.json").read_text()) | keys
  (folder / "config.json").write_text(json.dumps({k: v for k, v in said.items() if v != "absent"}))


@pytest.mark.parametrize("name", MODELS)
def test_saved_folders_load_equal_whole_and_sharded(name, tmp_path):
  model, params = tiny(name), made(tiny(name))
  hub.save(tmp_path / "whole", model, params)
  again, found, _ = hub.load(tmp_path / "whole")
  assert equal(found, params)
  same = dict(carried="{}", classifier_dropout=model.config.classifier_dropout)
  assert dataclasses.replace(again.config, **same) == model.config
  hub.save(tmp_path / "shards", model, params, max_shard_bytes=2000)
  assert equal(hub.load(tmp_path / "shards")[1], params)


def published(tensors):
  """As the first BERT release has it: LayerNorm's old names, buffers, the tied decoder again, the other heads."""
  renamed = {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
             for n, t in tensors.items()}
  other = {"cls.seq_relationship.weight": np.ones((2, 16), np.float32), "bert.pooler.dense.bias": np.ones(16),
           "cls.seq_relationship.bias": np.ones(2, np.float32), "bert.pooler.dense.weight": np.ones((16, 16)),
           "bert.embeddings.position_ids": np.arange(20)[None]}
  copies = {"cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"].copy(),
            "cls.predictions.decoder.bias": tensors["cls.predictions.bias"].copy()}
  return renamed | other | copies


def test_the_published_layout_of_names_is_read(tmp_path):
  params = saved(tmp_path)
  rewrite(tmp_path, published)
  configure(tmp_path, tie_word_embeddings="absent", pooler_type="first_token_transform", gradient_checkpointing=False,
            position_embedding_type="absolute", directionality="bidi")
  model, found, _ = hub.load(tmp_path)
  assert model.config.tied and equal(found, params)


@pytest.mark.parametrize("name, prefix", [("roberta_lm", "roberta."), ("electra_replaced", "electra."),
                                          ("distilbert_lm", "distilbert.")])
def test_a_backbone_without_its_prefix_is_read(name, prefix, tmp_path):
  params = saved(tmp_path, name)
  rewrite(tmp_path, lambda tensors: {n.removeprefix(prefix): t for n, t in tensors.items()})
  assert equal(hub.load(tmp_path)[1], params)


@pytest.mark.parametrize("name, bias, copy", [
    ("bert_untied", "cls.predictions.bias", "cls.predictions.decoder.bias"),
    ("roberta_untied", "lm_head.bias", "lm_head.decoder.bias")])
def test_an_untied_decoder_reads_its_own_bias_or_the_heads_where_it_has_none(name, bias, copy, tmp_path):
  params = saved(tmp_path, name)
  tensors = load_file(tmp_path / "model.safetensors")
  np.testing.assert_array_equal(tensors[bias], tensors[copy])
  rewrite(tmp_path, lambda tensors: tensors | {bias: np.zeros_like(tensors[bias])})
  assert equal(hub.load(tmp_path)[1], params)
  rewrite(tmp_path, lambda t: {n: a for n, a in t.items() if n != copy} | {bias: tensors[bias]})
  assert equal(hub.load(tmp_path)[1], params)


def test_a_decoder_whose_bias_alone_differs_still_has_the_tied_table(tmp_path):
  """The file of a tied model holds the table once, and both biases."""
  saved(tmp_path)
  other = np.full(31, 7.0, np.float32)
  rewrite(tmp_path, lambda tensors: tensors | {"cls.predictions.decoder.bias": other})
  model, params, _ = hub.load(tmp_path)
  assert not model.config.tied and np.array_equal(params["head.bias"], other)
  assert np.array_equal(params["head.decoder.kernel"].T, params["embeddings.tokens.embedding"])


def test_a_decoder_in_the_file_that_differs_from_the_tied_table_is_used(tmp_path):
  saved(tmp_path)
  ones = np.ones((31, 16), np.float32)
  rewrite(tmp_path, lambda tensors: tensors | {"cls.predictions.decoder.weight": ones})
  model, params, _ = hub.load(tmp_path)
  assert not model.config.tied and float(params["head.decoder.kernel"].min()) == 1.0


@pytest.mark.parametrize("name, head, kept", [
    ("bert_pretraining", "sequence", "pooler"), ("roberta_lm", "sequence", "encoder"), ("bert_none", "lm", "encoder"),
    ("bert_lm", "none", "encoder"), ("electra_replaced", "token", "encoder"), ("distilbert_lm", "question", "encoder"),
    ("ernie_lm", "choice", "encoder")])
def test_another_head_keeps_what_the_folder_has_and_draws_the_rest(name, head, kept, tmp_path):
  before = saved(tmp_path, name)
  model, params, _ = hub.load(tmp_path, head=head, labels=5, key=jax.random.key(3))
  held = [n for n in params if n.startswith(kept)]
  assert held and all(np.array_equal(params[n], before[n]) for n in held)
  shape = (1, 2, 4) if head == "choice" else (2, 4)
  assert np.isfinite(model.apply(params, np.full(shape, 5)).hidden).all()


@pytest.mark.parametrize("keys, named", [
    (dict(is_decoder=True), "is_decoder"), (dict(position_embedding_type="relative_key"), "position_embedding_type"),
    (dict(hidden_act="unheard"), "act"), (dict(architectures=["BertForPoetry"]), "architectures"),
    (dict(num_attention_heads=3), "heads"), (dict(layer_scale=2.0), "layer_scale"),
    (dict(hidden_size="16"), "hidden_size")])
def test_what_is_not_supported_is_refused_by_key(keys, named, tmp_path):
  saved(tmp_path)
  configure(tmp_path, **keys)
  with pytest.raises(ConfigError, match=named):
    hub.load(tmp_path)


def test_what_a_class_lacks_or_has_no_key_for_is_not_saved(tmp_path):
  for name, more, said in (
      ("roberta_lm", dict(head="next_sentence"), "head"), ("bert_lm", dict(task_types=3), "task_types"),
      ("distilbert_lm", dict(token_types=2), "token_types"), ("bert_lm", dict(head_act="relu"), "head_act")):
    with pytest.raises(ConfigError, match=said):
      saved(tmp_path / said, name, **more)


def test_missing_tensors_are_named(tmp_path):
  saved(tmp_path)
  rewrite(tmp_path, lambda t: {n: a for n, a in t.items() if "layer.1.output.dense.bias" not in n})
  with pytest.raises(CheckpointError, match=r"bert\.encoder\.layer\.1\.output\.dense\.bias"):
    hub.load(tmp_path)
