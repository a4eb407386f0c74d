"""How T5 folders read in Hugging Face's words: config.json's keys, names and layouts of the tensors.

Version 1.1's folders say `tie_word_embeddings: false`, which also means that the decoder's output is not scaled; what
transformers 5 has written says `scale_decoder_outputs` for that, and `dense_act_fn` and `is_gated_act` beside
`feed_forward_proj`. These keys win where they are.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from llm_jax.core import hugging_face as hf
from llm_jax.core import tensor_table as tensors
from llm_jax.core.errors import ConfigError
from llm_jax.models.t5 import ENCODER_ALONE, from_config
from llm_jax.models.t5_sizes import T5Config

# Our field: (their key, its type, other names it goes by). All in both directions.
KEYS: dict[str, tuple[Any, ...]] = {
    "vocab_size": ("vocab_size", int), "width": ("d_model", int, "hidden_size"),
    "depth": ("num_layers", int, "num_hidden_layers"), "decoder_depth": ("num_decoder_layers", int | None),
    "heads": ("num_heads", int, "num_attention_heads"), "head_width": ("d_kv", int, "head_dim"),
    "hidden": ("d_ff", int), "buckets": ("relative_attention_num_buckets", int),
    "furthest": ("relative_attention_max_distance", int), "epsilon": ("layer_norm_epsilon", float),
    "dropout": ("dropout_rate", float), "pad_token": ("pad_token_id", int | None),
    "eos_token": ("eos_token_id", int | None), "start_token": ("decoder_start_token_id", int | None),
}
DEFAULTS = dict(
    vocab_size=32_128, d_model=512, num_layers=6, num_decoder_layers=None, num_heads=8, d_kv=64, d_ff=2048,
    relative_attention_num_buckets=32, relative_attention_max_distance=128, layer_norm_epsilon=1e-6, dropout_rate=0.1,
    pad_token_id=0, eos_token_id=1, feed_forward_proj="relu", tie_word_embeddings=True,
)
HEADS = {"T5ForConditionalGeneration": "lm", "T5ForSequenceClassification": "sequence",
         "T5ForTokenClassification": "token", "T5ForQuestionAnswering": "question", "T5EncoderModel": "encoder",
         "T5Model": "none", "T5WithLMHeadModel": "lm"}


def prefix(config: T5Config) -> str:
  """What the names of the backbone begin with: its classifiers hold a whole model."""
  return "transformer." if config.head in ("sequence", "token") else ""


def names(config: T5Config) -> tensors.Names:
  """Part 0 of a layer is attention, then cross attention where there is one, then feed-forward."""
  backbone = prefix(config)
  found: tensors.Names = tensors.embedding("tokens", f"{backbone}shared") | tensors.linear("head", "lm_head")
  for side, feed_forward in (("encoder", 1), ("decoder", 2)):
    stack = f"{backbone}{side}"
    part = f"{stack}.block.{{layer}}.layer"
    for ours, theirs in (("attention", "0.SelfAttention"), ("cross_attention", "1.EncDecAttention")):
      for name in ("query", "key", "value"):
        found |= tensors.linear(f"{side}.blocks.{ours}.{name}", f"{part}.{theirs}.{name[0]}")
      found |= tensors.linear(f"{side}.blocks.{ours}.out", f"{part}.{theirs}.o", inputs=2)
    inner, ours = f"{part}.{feed_forward}.DenseReluDense", f"{side}.blocks.feed_forward"
    found |= (tensors.linear(f"{ours}.gate", f"{inner}.wi_0")
              | tensors.linear(f"{ours}.up", f"{inner}.wi{'_1' * config.gated}")
              | tensors.linear(f"{ours}.down", f"{inner}.wo")
              | tensors.norm(f"{side}.blocks.attention_norm", f"{part}.0.layer_norm")
              | tensors.norm(f"{side}.blocks.cross_norm", f"{part}.1.layer_norm")
              | tensors.norm(f"{side}.blocks.feed_forward_norm", f"{part}.{feed_forward}.layer_norm")
              | tensors.norm(f"{side}.final_norm", f"{stack}.final_layer_norm")
              | tensors.embedding(f"{side}.bias", f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias"))
  label = {"sequence": "classification_head.out_proj", "question": "qa_outputs"}.get(config.head, "classifier")
  return found | tensors.linear("dense", "classification_head.dense") | tensors.linear("classifier", label)


def tied(config: T5Config) -> dict[str, str]:
  """{copy: the tensor that is stored}; both stacks have a copy of the table under their own name."""
  backbone = prefix(config)
  table = f"{backbone}shared.weight"
  copies = {f"{backbone}{side}.embed_tokens.weight": table for side in ("encoder", "decoder")}
  return copies | ({"lm_head.weight": table} if config.tied else {})


def config_from_hf(given: Mapping[str, Any]) -> T5Config:
  """The architecture that a config.json says.

  Raises:
    ConfigError: a key that this file does not support and that would change the numbers.
  """
  read = hf.ConfigReader(given, DEFAULTS)
  fields: dict[str, Any] = {ours: read(*key) for ours, key in KEYS.items()}
  said = read("feed_forward_proj", str)
  kind, _, act = said.rpartition("-")
  if kind not in ("", "gated"):
    raise ConfigError("config.json: feed_forward_proj", f"{said!r} is not supported",
                      accepted="an activation, or gated- and an activation")
  act = "gelu_new" if said == "gated-gelu" else act
  tied_head = read("tie_word_embeddings", bool)
  read.defaults = {**read.defaults, "dense_act_fn": act, "is_gated_act": kind == "gated",
                   "scale_decoder_outputs": tied_head}
  fields |= dict(act=read("dense_act_fn", str), gated=read("is_gated_act", bool), tied=tied_head,
                 scale_output=read("scale_decoder_outputs", bool))
  read.finish()
  head: Any = hf.head_of(given, HEADS)
  return T5Config(head=head, labels=hf.labels_of(given), carried=read.carried(), **fields)


def config_to_hf(config: T5Config) -> dict[str, Any]:
  """The config.json of this architecture."""
  said: dict[str, Any] = {key[0]: getattr(config, ours) for ours, key in KEYS.items()}
  said |= hf.description(config, hf.architecture_of(config.head, HEADS), "t5")
  said |= {KEYS[k][0]: getattr(config, k) for k in ("pad_token", "eos_token")}
  act = "gelu" if config.gated and config.act == "gelu_new" else config.act
  said |= dict(feed_forward_proj=f"{'gated-' * config.gated}{act}", dense_act_fn=config.act, is_gated_act=config.gated,
               tie_word_embeddings=config.tied, scale_decoder_outputs=config.scale_output,
               num_decoder_layers=config.decoder_depth or config.depth,
               is_encoder_decoder=config.head not in ENCODER_ALONE)
  return hf.checked_round_trip(config, said, HUGGING_FACE, IGNORE + (() if config.decoder_depth else DEPTH))


DEPTH = ("decoder_depth",)
IGNORE = ("dtype", "remat", "scan", "attention", "labels", "carried")
HUGGING_FACE = hf.Family(
    model_types=("t5",), config=T5Config, build=from_config, names=names, config_from_hf=config_from_hf,
    config_to_hf=config_to_hf, tied=tied, heads=("head.", "dense.", "classifier."),
    prefix=prefix, prefixes=("transformer.",),
    ignored=(r"EncDecAttention\.relative_attention_bias\.weight$",),
    head_tensors=r"^(lm_head|classifier|qa_outputs|classification_head)\.",
    untie=lambda config: dataclasses.replace(config, tied=False),
)
