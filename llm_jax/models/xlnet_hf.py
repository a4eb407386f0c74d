"""How XLNet folders read in Hugging Face's words: config.json's keys, names and layouts of the tensors."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from llm_jax.core import hugging_face as hf
from llm_jax.core import tensor_table as tensors
from llm_jax.core.errors import ConfigError
from llm_jax.models.xlnet import from_config
from llm_jax.models.xlnet_sizes import XLNetConfig

# Our field: (their key, its type, other names it goes by). All in both directions.
KEYS: dict[str, tuple[Any, ...]] = {
    "vocab_size": ("vocab_size", int, "n_token"), "width": ("d_model", int, "hidden_size"),
    "depth": ("n_layer", int, "num_hidden_layers"), "heads": ("n_head", int, "num_attention_heads"),
    "head_width": ("d_head", int | None), "hidden": ("d_inner", int), "act": ("ff_activation", str),
    "epsilon": ("layer_norm_eps", float), "dropout": ("dropout", float), "attn_type": ("attn_type", str),
    "bi_data": ("bi_data", bool), "clamp_len": ("clamp_len", int), "same_length": ("same_length", bool),
    "mem_len": ("mem_len", int | None), "reuse_len": ("reuse_len", int | None),
    "use_mems_eval": ("use_mems_eval", bool), "use_mems_train": ("use_mems_train", bool),
    "summary": ("summary_type", str), "summary_dense": ("summary_use_proj", bool),
    "summary_act": ("summary_activation", str | None), "tied": ("tie_word_embeddings", bool),
}
DEFAULTS = dict(
    vocab_size=32_000, d_model=1024, n_layer=24, n_head=16, d_head=None, d_inner=4096, ff_activation="gelu",
    layer_norm_eps=1e-12, dropout=0.1, attn_type="bi", bi_data=False, clamp_len=-1, same_length=False, mem_len=512,
    reuse_len=None, use_mems_eval=True, use_mems_train=False, summary_type="last", summary_use_proj=True,
    summary_activation="tanh", tie_word_embeddings=True,
)
HARMLESS = ("start_n_top", "end_n_top", "summary_last_dropout", "untie_r", "init", "init_range", "init_std",
            "max_position_embeddings")
HEADS = {"XLNetLMHeadModel": "lm", "XLNetForSequenceClassification": "sequence", "XLNetForTokenClassification": "token",
         "XLNetForQuestionAnsweringSimple": "question", "XLNetForMultipleChoice": "choice", "XLNetModel": "none"}
LAYER = "transformer.layer.{layer}"


def names(config: XLNetConfig) -> tensors.Names:
  """Projections are stored (width, heads, head width), the outer one too."""
  ours, theirs = "blocks.attention", f"{LAYER}.rel_attn"
  found: tensors.Names = tensors.embedding("tokens", "transformer.word_embedding")
  found |= tensors.same("mask_embedding", "transformer.mask_emb")
  found |= tensors.same(f"{ours}.segments", f"{theirs}.seg_embed")
  for name, letter in (("query", "q"), ("key", "k"), ("value", "v"), ("distance", "r")):
    found |= tensors.same(f"{ours}.{name}.kernel", f"{theirs}.{letter}")
  for name, letter in (("content", "w"), ("distance", "r"), ("segment", "s")):
    found |= tensors.same(f"{ours}.{name}_bias", f"{theirs}.r_{letter}_bias")
  return found | (
      tensors.same(f"{ours}.out.kernel", f"{theirs}.o", (1, 2, 0))
      | tensors.norm("blocks.attention_norm", f"{theirs}.layer_norm") | tensors.norm("blocks.feed_forward_norm",
                                                                           f"{LAYER}.ff.layer_norm")
      | tensors.linear("blocks.feed_forward.up", f"{LAYER}.ff.layer_1")
      | tensors.linear("blocks.feed_forward.down", f"{LAYER}.ff.layer_2")
      | tensors.matrix("head.kernel", "lm_loss.weight") | tensors.vector("head_bias", "lm_loss.bias")
      | tensors.linear("summary.dense", "sequence_summary.summary")
      | tensors.linear("classifier", {"token": "classifier", "question": "qa_outputs"}.get(config.head, "logits_proj"))
  )


def config_from_hf(given: Mapping[str, Any]) -> XLNetConfig:
  """The architecture that a config.json says.

  Raises:
    ConfigError: a key that this file does not support and that would change the numbers.
  """
  read = hf.ConfigReader(given, DEFAULTS)
  read.only("attn_type", "bi", "uni")
  read.only("summary_type", "last", "first", "mean", "cls_index")
  fields: dict[str, Any] = {ours: read(*key) for ours, key in KEYS.items()}
  fields["head_width"] = fields["head_width"] or fields["width"] // fields["heads"]
  read.finish(HARMLESS)
  head: Any = hf.head_of(given, HEADS)
  return XLNetConfig(head=head, labels=hf.labels_of(given), carried=read.carried(), **fields)


def config_to_hf(config: XLNetConfig) -> dict[str, Any]:
  """The config.json of this architecture.

  Raises:
    ConfigError: a head width other than width / heads, which Hugging Face's class refuses.
  """
  config = dataclasses.replace(config, head_width=config.head_width or config.width // config.heads)
  if config.head_width != config.width // config.heads:
    raise ConfigError("config.model.head_width", f"an xlnet folder cannot say {config.head_width}",
                      accepted=f"{config.width // config.heads}, the width by the heads")
  said: dict[str, Any] = {key[0]: getattr(config, ours) for ours, key in KEYS.items()}
  said |= hf.description(config, hf.architecture_of(config.head, HEADS), "xlnet")
  return hf.checked_round_trip(config, said, HUGGING_FACE, IGNORE)


IGNORE = ("dtype", "remat", "scan", "attention", "labels", "carried")
HUGGING_FACE = hf.Family(
    model_types=("xlnet",), config=XLNetConfig, build=from_config, names=names, config_from_hf=config_from_hf,
    config_to_hf=config_to_hf, prefix=lambda config: "" if config.head == "none" else "transformer.",
    prefixes=("transformer.",), tied=lambda config: {"lm_loss.weight": "transformer.word_embedding.weight"},
    heads=("head.", "head_bias", "summary.", "classifier."),
    head_tensors=r"^(lm_loss|classifier|qa_outputs|logits_proj|sequence_summary)\.",
    untie=lambda config: dataclasses.replace(config, tied=False),
)
