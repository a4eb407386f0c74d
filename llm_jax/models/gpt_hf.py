"""How GPT-1 and GPT-2 folders read in Hugging Face's words: config.json's keys, names and layouts of the tensors."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from llm_jax.core import hugging_face as hf
from llm_jax.core import tensor_table as tensors
from llm_jax.core.errors import ConfigError
from llm_jax.models.gpt import GPTConfig, from_config

# Our field: (their key, its type, other names it goes by). All in both directions.
KEYS: dict[str, tuple[Any, ...]] = {
    "vocab_size": ("vocab_size", int), "positions": ("n_positions", int, "max_position_embeddings"),
    "width": ("n_embd", int, "hidden_size"), "depth": ("n_layer", int, "num_hidden_layers"),
    "heads": ("n_head", int, "num_attention_heads"), "epsilon": ("layer_norm_epsilon", float),
    "embed_dropout": ("embd_pdrop", float), "residual_dropout": ("resid_pdrop", float),
    "attention_dropout": ("attn_pdrop", float), "tied": ("tie_word_embeddings", bool),
    "pad_token": ("pad_token_id", int | None),
}
GPT2_KEYS = KEYS | {
    "hidden": ("n_inner", int | None), "act": ("activation_function", str),
    "scale_attention": ("scale_attn_weights", bool), "scale_by_layer": ("scale_attn_by_inverse_layer_idx", bool),
}
DEFAULTS = dict(
    n_embd=768, n_layer=12, n_head=12, layer_norm_epsilon=1e-5, embd_pdrop=0.1, resid_pdrop=0.1, attn_pdrop=0.1,
    tie_word_embeddings=True, n_inner=None, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False,
)
DEFAULTS_OF = {
    "openai-gpt": DEFAULTS | dict(vocab_size=40478, n_positions=512, afn="gelu"),
    "gpt2": DEFAULTS | dict(vocab_size=50257, n_positions=1024, activation_function="gelu_new"),
}
HARMLESS = ("n_ctx", "n_special", "predict_special_tokens", "reorder_and_upcast_attn", "summary_first_dropout",
            "summary_activation", "summary_type", "summary_use_proj", "summary_proj_to_labels")
GPT1_ACTIVATIONS = {"gelu": "gelu_new", "relu": "relu", "silu": "silu", "swish": "silu"}  # its 'gelu' is the tanh form

HEADS = {"GPT2LMHeadModel": "lm", "GPT2ForSequenceClassification": "sequence", "GPT2ForTokenClassification": "token",
         "GPT2ForQuestionAnswering": "question", "GPT2DoubleHeadsModel": "double", "GPT2Model": "none"}
GPT1_HEADS = {"OpenAIGPTLMHeadModel": "lm", "OpenAIGPTForSequenceClassification": "sequence",
              "OpenAIGPTDoubleHeadsModel": "double", "OpenAIGPTModel": "none"}
HEADS_OF = {"openai-gpt": GPT1_HEADS, "gpt2": HEADS}

QKV = ("blocks.attention.query", "blocks.attention.key", "blocks.attention.value")


def names(config: GPTConfig) -> tensors.Names:
  """Their tensors are those of the original releases: Conv1D kernels (in, out), one matrix for q, k and v."""
  positions = "positions_embed" if config.norms == "post" else "wpe"
  layer = "transformer.h.{layer}"
  return (
      tensors.same("tokens.embedding", next(iter(tied(config).values())))
      | tensors.embedding("positions", f"transformer.{positions}")
      | tensors.norm("blocks.attention_norm", f"{layer}.ln_1")
      | tensors.linear(QKV, f"{layer}.attn.c_attn", transposed=False)
      | tensors.linear("blocks.attention.out", f"{layer}.attn.c_proj", inputs=2, transposed=False)
      | tensors.norm("blocks.feed_forward_norm", f"{layer}.ln_2")
      | tensors.linear("blocks.feed_forward.up", f"{layer}.mlp.c_fc", transposed=False)
      | tensors.linear("blocks.feed_forward.down", f"{layer}.mlp.c_proj", transposed=False)
      | tensors.norm("final_norm", "transformer.ln_f")
      | tensors.matrix("head.kernel", "lm_head.weight")
      | tensors.linear("classifier.score", "score")
      | tensors.linear("classifier", "qa_outputs" if config.head == "question" else "classifier")
      | tensors.linear("classifier.summary", "multiple_choice_head.summary")
  )


def tied(config: GPTConfig) -> dict[str, str]:
  """{copy: the tensor that is stored}; GPT-1 with two heads stores the table under the head's name."""
  table = f"transformer.{'tokens_embed' if config.norms == 'post' else 'wte'}.weight"
  stored_as_head = config.norms == "post" and config.head == "double" and config.tied
  return {table: "lm_head.weight"} if stored_as_head else {"lm_head.weight": table}


def config_from_hf(given: Mapping[str, Any]) -> GPTConfig:
  """The architecture that a config.json says.

  Raises:
    ConfigError: a key that this file does not support and that would change the numbers.
  """
  family = given["model_type"]
  read = hf.ConfigReader(given, DEFAULTS_OF[family])
  fields: dict[str, Any] = {ours: read(*key) for ours, key in (KEYS if family == "openai-gpt" else GPT2_KEYS).items()}
  read.only("add_cross_attention", False)
  read.only("is_causal", None, True)
  head: Any = hf.head_of(given, HEADS_OF[family])
  if head == "double":  # the summary of other heads is never read
    read.only("summary_type", "cls_index")
    read.only("summary_use_proj", True)
    read.only("summary_activation", None)
  if family == "openai-gpt":
    afn = read("afn", str)
    if afn not in GPT1_ACTIVATIONS:
      raise ConfigError("config.json: afn", f"{afn!r} is not supported", accepted=", ".join(GPT1_ACTIVATIONS))
    fields |= dict(norms="post", act=GPT1_ACTIVATIONS[afn])
  read.finish(HARMLESS)
  return GPTConfig(head=head, labels=hf.labels_of(given), carried=read.carried(), **fields)


def config_to_hf(config: GPTConfig) -> dict[str, Any]:
  """The config.json of this architecture.

  Raises:
    ConfigError: something that Hugging Face's GPT classes cannot say, such as GPT-3's banded layers.
  """
  family = "openai-gpt" if config.norms == "post" else "gpt2"
  keys = KEYS if family == "openai-gpt" else GPT2_KEYS
  said: dict[str, Any] = {key[0]: getattr(config, ours) for ours, key in keys.items()}
  if family == "openai-gpt":
    said["afn"] = {v: k for k, v in reversed(GPT1_ACTIVATIONS.items())}.get(config.act, config.act)
  said |= hf.description(config, hf.architecture_of(config.head, HEADS_OF[family]), family)
  said |= dict(pad_token_id=config.pad_token) | (dict(num_labels=1) if config.head == "double" else {})
  return hf.checked_round_trip(config, said, HUGGING_FACE, IGNORE)


IGNORE = ("dtype", "remat", "scan", "attention", "labels", "carried")
HUGGING_FACE = hf.Family(
    model_types=("gpt2", "openai-gpt"), config=GPTConfig, build=from_config, names=names,
    config_from_hf=config_from_hf, config_to_hf=config_to_hf,
    prefix=lambda config: "" if config.head == "none" else "transformer.", prefixes=("transformer.",), tied=tied,
    ignored=(r"\.attn\.bias$", r"\.attn\.masked_bias$", r"(^|\.)position_ids$"),
    untie=lambda config: dataclasses.replace(config, tied=False),
)
