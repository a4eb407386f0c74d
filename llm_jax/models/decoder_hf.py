"""How Llama, Mistral, Mixtral, Qwen and Gemma folders read in Hugging Face's words: keys of config.json, names.

config.json is read as transformers 5 reads it, from the keys of either generation.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from llm_jax.core import hugging_face as hf
from llm_jax.core import tensor_table as tensors
from llm_jax.core.errors import ConfigError, unknown_name
from llm_jax.layers.stack import period
from llm_jax.models import decoder_hf_ropes
from llm_jax.models.decoder import from_config
from llm_jax.models.decoder_config import DecoderConfig
from llm_jax.models.decoder_hf_defaults import DEFAULTS

# Our field: (their key, its type). The same for all of the family.
KEYS: dict[str, tuple[Any, ...]] = {
    "vocab_size": ("vocab_size", int), "width": ("hidden_size", int), "hidden": ("intermediate_size", int),
    "depth": ("num_hidden_layers", int), "heads": ("num_attention_heads", int),
    "positions": ("max_position_embeddings", int), "epsilon": ("rms_norm_eps", float),
    "attention_dropout": ("attention_dropout", float | None), "tied": ("tie_word_embeddings", bool),
    "pad_token": ("pad_token_id", int | None),
}
CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma": "Gemma",
           "gemma2": "Gemma2", "gemma3_text": "Gemma3", "mixtral": "Mixtral", "qwen3_moe": "Qwen3Moe"}
ENDINGS = {"ForCausalLM": "lm", "ForSequenceClassification": "sequence", "ForTokenClassification": "token",
           "ForQuestionAnswering": "question", "Model": "none"}
GEMMA3_HEADS = {"Gemma3ForCausalLM": "lm", "Gemma3TextForSequenceClassification": "sequence", "Gemma3TextModel": "none",
                "Gemma3ForConditionalGeneration": "lm", "Gemma3ForSequenceClassification": "sequence",
                "Gemma3Model": "none"}
HARMLESS = ("_sliding_window_pattern", "sliding_window_pattern", "hidden_act", "hidden_activation", "sliding_window",
            "max_window_layers", "use_sliding_window")
QUESTION_OF_TRANSFORMER = ("llama", "qwen2", "qwen3", "qwen3_moe")  # whose answering class calls its backbone so
UNUSED_WINDOW = 4096  # of a Gemma without local layers: transformers makes the masks of both kinds, and needs a width


def names(config: DecoderConfig) -> tensors.Names:
  """Gemma 2's and 3's four norms reuse one of Llama's two names for another place."""
  layer = "model.layers.{layer}"
  after = "pre_feedforward_layernorm" if config.norms == "sandwich" else "post_attention_layernorm"
  return (
      tensors.embedding("tokens", "model.embed_tokens")
      | tensors.norm("blocks.attention_norm", f"{layer}.input_layernorm")
      | tensors.linear("blocks.attention.query", f"{layer}.self_attn.q_proj")
      | tensors.linear("blocks.attention.key", f"{layer}.self_attn.k_proj")
      | tensors.linear("blocks.attention.value", f"{layer}.self_attn.v_proj")
      | tensors.linear("blocks.attention.out", f"{layer}.self_attn.o_proj", inputs=2)
      | tensors.norm("blocks.attention.query_norm", f"{layer}.self_attn.q_norm")
      | tensors.norm("blocks.attention.key_norm", f"{layer}.self_attn.k_norm")
      | tensors.norm("blocks.attention_out_norm", f"{layer}.post_attention_layernorm")
      | tensors.norm("blocks.feed_forward_norm", f"{layer}.{after}")
      | tensors.linear("blocks.feed_forward.gate", f"{layer}.mlp.gate_proj")
      | tensors.linear("blocks.feed_forward.up", f"{layer}.mlp.up_proj")
      | tensors.linear("blocks.feed_forward.down", f"{layer}.mlp.down_proj")
      | _feed_forward_parts(config, layer)
      | tensors.norm("blocks.feed_forward_out_norm", f"{layer}.post_feedforward_layernorm")
      | tensors.norm("final_norm", "model.norm")
      | tensors.matrix("head.kernel", "lm_head.weight")
      | tensors.matrix("classifier.score.kernel", "score.weight")
      | tensors.linear("classifier", "qa_outputs" if config.head == "question" else "score")
  )


def _feed_forward_parts(config: DecoderConfig, layer: str) -> tensors.Names:
  """Of a mixture: the experts of its sparse layers, one tensor each, and the feed-forward blocks of the others."""
  block, parts = ("block_sparse_moe", ("w1", "w3", "w2")) if config.family == "mixtral" else (
      "mlp", ("gate_proj", "up_proj", "down_proj"))
  sparse = tensors.matrix("sparse.router.kernel", f"{layer}.{block}.gate.weight")
  dense: tensors.Names = {}
  for ours, theirs in zip(("gate", "up", "down"), parts):
    sparse |= tensors.matrix(f"sparse.{ours}.kernel", f"{layer}.{block}.experts.{{expert}}.{theirs}.weight")
    dense |= tensors.linear(f"dense.{ours}", f"{layer}.mlp.{ours}_proj")
  others = [i for i in range(config.depth) if i not in config.sparse_layers]
  return tensors.only_layers(config.sparse_layers, sparse) | tensors.only_layers(others, dense)


def config_from_hf(given: Mapping[str, Any]) -> DecoderConfig:
  """The architecture that a config.json says.

  Raises:
    ConfigError: a key that is not supported and that would change the numbers.
  """
  if given["model_type"] == "gemma3":  # the text model inside the multimodal one
    inner = dict(given.get("text_config") or {})
    outer = {key: given[key] for key in ("tie_word_embeddings", "architectures", "id2label") if key in given}
    given = inner | outer | dict(model_type="gemma3_text")
  family = given["model_type"]
  read = hf.ConfigReader(given, DEFAULTS[family])
  fields: dict[str, Any] = {ours: read(*key) for ours, key in KEYS.items()}
  fields["attention_dropout"] = fields["attention_dropout"] or 0.0
  kv_heads, head_width = read("num_key_value_heads", int | None), read("head_dim", int | None)
  fields["kv_heads"] = kv_heads or fields["heads"]
  fields["head_width"] = head_width or fields["width"] // fields["heads"]
  fields |= _biases(family, read) | _spans(family, read, fields["depth"]) | decoder_hf_ropes.read(family, read)
  if family.startswith("gemma"):
    fields |= _gemma(family, read)
  else:
    fields |= dict(act=read("hidden_act", str), qk_norm=family in ("qwen3", "qwen3_moe"))
  if "num_local_experts" in DEFAULTS[family]:
    fields |= _experts(family, read)
  read.only("is_causal", None, True)
  read.only("use_bidirectional_attention", None, False)
  read.only("partial_rotary_factor", None, 1.0)
  read.only("token_classification_bias", None, True)
  read.finish(HARMLESS)
  head: Any = hf.head_of(given, _heads(family))
  return DecoderConfig(family=family, head=head, labels=hf.labels_of(given), carried=read.carried(), **fields)


def _heads(family: str) -> dict[str, str]:
  if family == "gemma3_text":
    return GEMMA3_HEADS
  return {CLASSES[family] + ending: head for ending, head in ENDINGS.items()
          if not (head == "question" and family.startswith("gemma"))}


def _biases(family: str, read: hf.ConfigReader) -> dict[str, bool]:
  if family == "qwen2":  # always on q, k and v, never on the output
    return dict(qkv_bias=True, out_bias=False)
  if family in ("mistral", "mixtral"):
    return {}
  everywhere = read("attention_bias", bool)
  return dict(qkv_bias=everywhere, out_bias=everywhere) | (
      dict(mlp_bias=read("mlp_bias", bool)) if family == "llama" else {})


def _experts(family: str, read: hf.ConfigReader) -> dict[str, Any]:
  fields: dict[str, Any] = dict(
      experts=read("num_local_experts", int, "num_experts"), experts_per_token=read("num_experts_per_tok", int),
      balance_weight=read("router_aux_loss_coef", float))
  if family == "mixtral":
    return fields | dict(router_jitter=read("router_jitter_noise", float | None) or 0.0)
  return fields | dict(expert_hidden=read("moe_intermediate_size", int),
                       normalise_experts=read("norm_topk_prob", bool),
                       dense_layers=tuple(read("mlp_only_layers", list | None) or ()),
                       sparse_step=read("decoder_sparse_step", int))


def _gemma(family: str, read: hf.ConfigReader) -> dict[str, Any]:
  fields: dict[str, Any] = dict(norm_offset=True, scale_embedding=True)
  if family == "gemma":  # the released configs say gelu and mean its tanh form
    act = read("hidden_act", str)
    return fields | dict(act="gelu_pytorch_tanh" if act == "gelu" else act)
  cap = read("attn_logit_softcapping", float | None)  # the class of Gemma 3 keeps the key and never caps
  return fields | dict(
      act=read("hidden_activation", str), norms="sandwich", qk_norm=family == "gemma3_text",
      attention_scale=float(read("query_pre_attn_scalar", float)) ** -0.5,
      attention_cap=cap if family == "gemma2" else None,
      logit_cap=read("final_logit_softcapping", float | None))


def _spans(family: str, read: hf.ConfigReader, depth: int) -> dict[str, Any]:
  """Which layers are local. Keys that a class does not have are left to `finish`."""
  if family in ("llama", "gemma"):
    read.only("layer_types", None, ["full_attention"] * depth)
    return {}
  window = read("sliding_window", int | None)
  if family == "qwen3_moe":
    window = window if read("use_sliding_window", bool) else None
  if family in ("mistral", "mixtral", "qwen3_moe"):
    read.only("layer_types", None, ["sliding_attention" if window else "full_attention"] * depth)
    return {} if window is None else dict(spans=("local",), window=window)
  types = read("layer_types", list | None)
  if family.startswith("qwen"):
    window = window if read("use_sliding_window", bool) else None
    first = read("max_window_layers", int)
    types = types or ["sliding_attention" if window and i >= first else "full_attention" for i in range(depth)]
  elif types is None:
    pattern = 2 if family == "gemma2" else read.hf.get("sliding_window_pattern") or 6
    types = ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(depth)]
  spans = {"sliding_attention": "local", "full_attention": "full"}
  for kind in types:
    if kind not in spans:
      raise unknown_name("config.json: layer_types", kind, list(spans), what="kind of layer")
  if len(types) != depth:
    raise ConfigError("config.json: layer_types", f"{len(types)} layers named, {depth} there are")
  if window is None and "sliding_attention" in types:
    raise ConfigError("config.json: sliding_window", "null, but layer_types has sliding layers")
  ours = tuple(spans[kind] for kind in types)
  ours = ours[:period(ours)]
  return dict(spans=ours, window=window if "local" in ours else None)


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
  """The config.json of this architecture, in keys that transformers 4 and 5 both read.

  Raises:
    ConfigError: something that the family's class cannot say.
  """
  family = config.family
  if family not in DEFAULTS:
    raise unknown_name("config.model.family", family, list(DEFAULTS))
  said: dict[str, Any] = {key[0]: getattr(config, ours) for ours, key in KEYS.items()}
  said |= hf.description(config, hf.architecture_of(config.head, _heads(family)), family)
  said |= dict(pad_token_id=config.pad_token, num_key_value_heads=config.kv_heads, head_dim=config.head_width)
  said["hidden_activation" if family in ("gemma2", "gemma3_text") else "hidden_act"] = config.act
  said |= {key: getattr(config, ours) for key, ours in (("attention_bias", "qkv_bias"), ("mlp_bias", "mlp_bias"))
           if key in DEFAULTS[family]}
  said |= _said_spans(config) | (_said_experts(config) if config.experts else {})
  if family in ("gemma2", "gemma3_text"):
    scale = config.attention_scale or config.head_width**-0.5
    config = dataclasses.replace(config, attention_scale=scale)
    said |= dict(query_pre_attn_scalar=_whole(scale**-2), final_logit_softcapping=config.logit_cap)
    said |= dict(attn_logit_softcapping=config.attention_cap) if family == "gemma2" else {}
  said |= decoder_hf_ropes.say(config)
  return hf.checked_round_trip(config, said, HUGGING_FACE, IGNORE)


def _said_spans(config: DecoderConfig) -> dict[str, Any]:
  if config.family in ("mistral", "mixtral", "qwen3_moe"):
    also = dict(use_sliding_window=config.window is not None) if config.family == "qwen3_moe" else {}
    return also | dict(sliding_window=config.window)
  if config.family in ("llama", "gemma"):
    return {}
  theirs = {"local": "sliding_attention", "full": "full_attention"}
  types = [theirs[config.spans[i % len(config.spans)]] for i in range(config.depth)]
  unused = UNUSED_WINDOW if config.family.startswith("gemma") else None
  said = dict(layer_types=types, sliding_window=config.window or unused)
  return said | (dict(use_sliding_window=config.window is not None) if config.family.startswith("qwen") else {})


def _said_experts(config: DecoderConfig) -> dict[str, Any]:
  said: dict[str, Any] = dict(num_local_experts=config.experts, num_experts_per_tok=config.experts_per_token,
                              router_aux_loss_coef=config.balance_weight)
  if config.family == "mixtral":
    return said | dict(router_jitter_noise=config.router_jitter)
  return said | dict(num_experts=config.experts, moe_intermediate_size=config.expert_hidden or config.hidden,
                     norm_topk_prob=config.normalise_experts, mlp_only_layers=list(config.dense_layers),
                     decoder_sparse_step=config.sparse_step)


def _whole(x: float) -> float | int:
  """Undoes the rounding of x ** -0.5 ** -2 for the whole numbers that configs hold."""
  return round(x) if abs(x - round(x)) < 1e-6 * x else x


def _prefix(config: DecoderConfig) -> str:
  if config.head == "none":
    return ""
  return "transformer." if config.head == "question" and config.family in QUESTION_OF_TRANSFORMER else "model."


IGNORE = ("router_z_weight", "dtype", "remat", "scan", "attention", "labels", "carried", "dropout")
HUGGING_FACE = hf.Family(
    model_types=(*DEFAULTS, "gemma3"), config=DecoderConfig, build=from_config, names=names,
    config_from_hf=config_from_hf, config_to_hf=config_to_hf, prefix=_prefix,
    prefixes=("model.language_model.", "language_model.model.", "model.", "transformer.", "language_model."),
    tied=lambda config: {"lm_head.weight": "model.embed_tokens.weight"},
    ignored=(r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$", r"^(model\.)?(vision_tower|multi_modal_projector)\."),
    untie=lambda config: dataclasses.replace(config, tied=False),
)
