"""How DeBERTa folders read in Hugging Face's words: config.json's keys, names and layouts of the tensors.

Microsoft's own folders name no class in config.json; their masked LM head is then read in the original layout
(`lm_predictions.lm_head`), and what they hold of the mask decoder and of replaced tokens is left alone unless asked
for: hub.load(folder, enhanced_decoder=True), hub.load(folder, head='replaced').
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_jax.core import hugging_face as hf
from llm_jax.core import tensor_table as tensors
from llm_jax.core.errors import ConfigError
from llm_jax.models.deberta import from_config
from llm_jax.models.deberta_config import DebertaConfig

# Our field: (their key, its type). All in both directions.
KEYS: dict[str, tuple[Any, ...]] = {
    "vocab_size": ("vocab_size", int), "positions": ("max_position_embeddings", int), "width": ("hidden_size", int),
    "depth": ("num_hidden_layers", int), "heads": ("num_attention_heads", int), "hidden": ("intermediate_size", int),
    "act": ("hidden_act", str), "epsilon": ("layer_norm_eps", float), "types": ("type_vocab_size", int),
    "embed_width": ("embedding_size", int | None), "biased_input": ("position_biased_input", bool),
    "relative": ("relative_attention", bool), "span": ("max_relative_positions", int),
    "dropout": ("hidden_dropout_prob", float), "attention_dropout": ("attention_probs_dropout_prob", float),
    "pooler_dropout": ("pooler_dropout", float), "pooler_act": ("pooler_hidden_act", str),
    "head_dropout": ("cls_dropout", float | None), "tied": ("tie_word_embeddings", bool),
    "pad_token": ("pad_token_id", int | None), "enhanced_decoder": ("enhanced_mask_decoder", bool),
}
V2_KEYS = KEYS | {
    "buckets": ("position_buckets", int), "shared": ("share_att_key", bool), "convolution": ("conv_kernel_size", int),
    "convolution_groups": ("conv_groups", int), "convolution_act": ("conv_act", str),
}
DEFAULTS: dict[str, Any] = dict(
    vocab_size=50265, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
    hidden_act="gelu", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, max_position_embeddings=512,
    type_vocab_size=0, layer_norm_eps=1e-7, relative_attention=False, max_relative_positions=-1, pad_token_id=0,
    position_biased_input=True, pos_att_type=None, pooler_dropout=0.0, pooler_hidden_act="gelu",
    tie_word_embeddings=True, enhanced_mask_decoder=False, position_buckets=-1, share_att_key=False,
    norm_rel_ebd="none", conv_kernel_size=0, conv_groups=1, conv_act="tanh",
)
V2_DEFAULTS = DEFAULTS | dict(vocab_size=128100, hidden_size=1536, num_hidden_layers=24, num_attention_heads=24,
                              intermediate_size=6144)
HARMLESS = ("padding_idx", "pooling", "pooler_size", "summary_type")

CLASSES = {"MaskedLM": "lm", "SequenceClassification": "sequence", "TokenClassification": "token",
           "QuestionAnswering": "question", "ReplacedTokenDetection": "replaced"}  # the last is no class of theirs
HEADS_OF = {
    "deberta": {f"DebertaFor{name}": head for name, head in CLASSES.items()} | {"DebertaModel": "none"},
    "deberta-v2": {f"DebertaV2For{name}": head for name, head in CLASSES.items()} | {
        "DebertaV2ForMultipleChoice": "choice", "DebertaV2Model": "none"},
}
QKV = tuple(f"blocks.attention.{part}.kernel" for part in ("query", "key", "value"))


def _interleaved(x_OD: np.ndarray, shapes: tensors.Shapes) -> tensors.Arrays:
  """Version 1's matrix of q, k and v, whose rows go by head, then by which of the three."""
  D, H, K = shapes[0]
  if x_OD.shape != (3 * H * K, D):
    raise ValueError("does not fit")
  return tuple(np.transpose(part, (2, 0, 1)) for part in np.moveaxis(x_OD.reshape(H, 3, K, D), 1, 0))


def _interleave(parts_DHK: tensors.Arrays) -> np.ndarray:
  x_H3KD = np.stack([np.transpose(part, (1, 2, 0)) for part in parts_DHK], axis=1)
  return x_H3KD.reshape(-1, x_H3KD.shape[-1])


def names(config: DebertaConfig) -> tensors.Names:
  """Their tensors: attention of version 1 is fused and interleaved, of version 2 apart."""
  layer, attention = "deberta.encoder.layer.{layer}", "deberta.encoder.layer.{layer}.attention.self"
  if config.form == "v1":
    projections = ({QKV: tensors.Tensor(f"{attention}.in_proj.weight", _interleaved, _interleave)}
                   | tensors.vector("blocks.attention.query.bias", f"{attention}.q_bias")
                   | tensors.vector("blocks.attention.value.bias", f"{attention}.v_bias")
                   | tensors.linear("blocks.attention.position_key", f"{attention}.pos_proj")
                   | tensors.linear("blocks.attention.position_query", f"{attention}.pos_q_proj"))
  else:
    projections = (tensors.linear("blocks.attention.query", f"{attention}.query_proj")
                   | tensors.linear("blocks.attention.key", f"{attention}.key_proj")
                   | tensors.linear("blocks.attention.value", f"{attention}.value_proj")
                   | tensors.linear("blocks.attention.position_key", f"{attention}.pos_key_proj")
                   | tensors.linear("blocks.attention.position_query", f"{attention}.pos_query_proj"))
  return (
      tensors.embedding("tokens", "deberta.embeddings.word_embeddings")
      | tensors.embedding("positions", "deberta.embeddings.position_embeddings")
      | tensors.embedding("types", "deberta.embeddings.token_type_embeddings")
      | tensors.linear("embed_projection", "deberta.embeddings.embed_proj")
      | tensors.norm("embed_norm", "deberta.embeddings.LayerNorm")
      | tensors.embedding("relative", "deberta.encoder.rel_embeddings")
      | tensors.norm("relative_norm", "deberta.encoder.LayerNorm")
      | tensors.same("convolution.kernel", "deberta.encoder.conv.conv.weight", axes=(2, 1, 0))
      | tensors.vector("convolution.bias", "deberta.encoder.conv.conv.bias")
      | tensors.norm("convolution.norm", "deberta.encoder.conv.LayerNorm")
      | projections
      | tensors.linear("blocks.attention.out", f"{layer}.attention.output.dense", inputs=2)
      | tensors.norm("blocks.attention_norm", f"{layer}.attention.output.LayerNorm")
      | tensors.linear("blocks.feed_forward.up", f"{layer}.intermediate.dense")
      | tensors.linear("blocks.feed_forward.down", f"{layer}.output.dense")
      | tensors.norm("blocks.feed_forward_norm", f"{layer}.output.LayerNorm")
      | _head_names(config)
  )


def _head_names(config: DebertaConfig) -> tensors.Names:
  """Both layouts of the masked LM head, and the heads for labels."""
  transform = "cls.predictions.transform" if config.legacy else "lm_predictions.lm_head"
  bias = "lm_predictions.lm_head.bias" if not config.legacy else (
      "cls.predictions.bias" if config.tied else "cls.predictions.decoder.bias")
  return (
      tensors.linear("head.dense", f"{transform}.dense") | tensors.norm("head.norm", f"{transform}.LayerNorm")
      | tensors.vector("head.bias", bias) | tensors.matrix("head.decoder.kernel", "cls.predictions.decoder.weight")
      | tensors.linear("pooler.dense", "pooler.dense")
      | tensors.norm("replaced.norm", "mask_predictions.LayerNorm")
      | tensors.linear("replaced.dense", "mask_predictions.dense")
      | tensors.linear("replaced.score", "mask_predictions.classifier")
      | tensors.linear("classifier", "qa_outputs" if config.head == "question" else "classifier")
  )


def tied(config: DebertaConfig) -> dict[str, str]:
  """{copy: the tensor that is stored}."""
  return {"cls.predictions.decoder.weight": "deberta.embeddings.word_embeddings.weight",
          "cls.predictions.decoder.bias": "cls.predictions.bias"} if config.legacy else {}


def repeated(config: DebertaConfig) -> dict[str, str]:
  """An untied decoder's bias is in the file under the head's name too, where nothing reads it."""
  return {"cls.predictions.bias": "cls.predictions.decoder.bias"} if config.legacy and not config.tied else {}


def config_from_hf(given: Mapping[str, Any]) -> DebertaConfig:
  """The architecture that a config.json says.

  Raises:
    ConfigError: a key that this file does not support and that would change the numbers.
  """
  family = given["model_type"]
  v2 = family == "deberta-v2"
  read = hf.ConfigReader(given, V2_DEFAULTS if v2 else DEFAULTS)
  fields: dict[str, Any] = {ours: read(*key) for ours, key in (V2_KEYS if v2 else KEYS).items()}
  terms = read("pos_att_type", str | list | None) or []
  fields["terms"] = tuple(t.strip() for t in (terms.lower().split("|") if isinstance(terms, str) else terms))
  read.only("talking_head", False)
  read.only("pooler_hidden_size", fields["width"], None)
  read.only("attention_head_size", fields["width"] // max(fields["heads"], 1), None)
  if v2:
    norms = {n.strip() for n in read("norm_rel_ebd", str).lower().split("|")}
    if norms - {"layer_norm", "none"}:
      raise ConfigError("config.json: norm_rel_ebd", f"{given['norm_rel_ebd']!r} is not supported",
                        accepted="'layer_norm' or 'none'")
    fields["relative_norm"] = "layer_norm" in norms
  if fields["embed_width"] == fields["width"]:
    fields["embed_width"] = None
  legacy = given.get("legacy", bool(given.get("architectures")))
  read.used.add("legacy")
  read.finish(HARMLESS)
  head: Any = hf.head_of(given, HEADS_OF[family])
  return DebertaConfig(form="v2" if v2 else "v1", head=head, labels=hf.labels_of(given), carried=read.carried(),
                       legacy=legacy, **fields)


def config_to_hf(config: DebertaConfig) -> dict[str, Any]:
  """The config.json of this architecture. transformers reads folders with a mask decoder or a replaced token head, but
  has neither: it takes their encoder.

  Raises:
    ConfigError: something that Hugging Face's classes cannot say.
  """
  family = "deberta-v2" if config.form == "v2" else "deberta"
  said: dict[str, Any] = {key[0]: getattr(config, ours) for ours, key in (V2_KEYS if family != "deberta" else
                                                                          KEYS).items()}
  said |= dict(pos_att_type=list(config.terms), legacy=config.legacy, pooler_hidden_size=config.width)
  if family == "deberta-v2":
    said["norm_rel_ebd"] = "layer_norm" if config.relative_norm else "none"
  for key in ("embedding_size", "cls_dropout", "enhanced_mask_decoder"):  # absent where they say nothing
    if not said[key]:
      del said[key]
  said |= hf.description(config, hf.architecture_of(config.head, HEADS_OF[family]), family)
  said["pad_token_id"] = config.pad_token
  return hf.checked_round_trip(config, said, HUGGING_FACE, IGNORE)


IGNORE = ("dtype", "remat", "scan", "attention", "labels", "carried")
HUGGING_FACE = hf.Family(
    model_types=("deberta", "deberta-v2"), config=DebertaConfig, build=from_config, names=names,
    config_from_hf=config_from_hf, config_to_hf=config_to_hf,
    prefix=lambda config: "" if config.head == "none" else "deberta.", prefixes=("deberta.",), tied=tied,
    repeated=repeated, untie=lambda config: dataclasses.replace(config, tied=False),
    heads=("head.", "pooler.", "replaced.", "classifier."),
    ignored=(r"(^|\.)position_ids$", r"(^|\.)embeddings\.position_embeddings\.weight$", r"^mask_predictions\."),
    head_tensors=r"^(cls|lm_predictions|mask_predictions|pooler|classifier|qa_outputs)\.",
)
