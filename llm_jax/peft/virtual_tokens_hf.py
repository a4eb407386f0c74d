"""Adapter folders of prompts and prefixes, as Hugging Face's `peft` writes and reads them: one tensor, the vectors.

`prompt_embeddings` is (tokens, D) of a prompt, and (tokens, layers * 2 * heads * head width) of a prefix, key before
value in each layer. What made the vectors is not in the folder, so a P-tuned prompt and a projected prefix are read as
vectors that are trained as they are. Gemma multiplies rows of its token table: a prompt of theirs comes after that (as
of transformers 5), ours before.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from llm_jax.core.errors import CheckpointError, ConfigError
from llm_jax.peft import p_tuning, prefix_tuning, prompt_tuning
from llm_jax.peft.adapted import Arrays, Method
from llm_jax.peft.base_names import FILE, Base, Tensors, check_config

PEFT_TYPES = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
METHODS = ("prompt_tuning", "p_tuning", "prefix_tuning")
TENSOR = "prompt_embeddings"
# Keys that say how the vectors started or what made them, and the base's own sizes.
BESIDE = ("token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules", "num_virtual_tokens",
          "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs",
          "encoder_hidden_size", "encoder_num_layers", "encoder_dropout", "encoder_reparameterization_type",
          "prefix_projection")


def read(config: Mapping[str, Any], tensors: Tensors, base: Base) -> tuple[Method, dict[str, jax.Array]]:
  """The method of a folder and our array.

  Raises:
    ConfigError: a setting that is not supported. CheckpointError: tensors that do not fit the base.
  """
  check_config(config, *BESIDE)
  tokens = int(config["num_virtual_tokens"])
  if config.get("num_transformer_submodules") not in (None, 1):
    raise ConfigError(f"{FILE}: num_transformer_submodules", f"got {config['num_transformer_submodules']}",
                      accepted="1, of a decoder")
  methods = {"PROMPT_TUNING": lambda: prompt_tuning.build(tokens=tokens), "P_TUNING": lambda: p_tuning.build(
      tokens=tokens, hidden=None), "PREFIX_TUNING": lambda: prefix_tuning.build(tokens=tokens)}
  method = methods[config["peft_type"]]()
  shapes = method.adapt(base.model).shapes
  ours, = shapes.keys() - base.model.shapes.keys()
  if tensors.keys() != {TENSOR}:
    raise CheckpointError(f"the adapter holds {sorted(tensors)}, expected {TENSOR!r} alone")
  if tensors[TENSOR].shape != shapes[ours].shape:
    raise CheckpointError(f"the adapter's {TENSOR} has shape {tensors[TENSOR].shape}, this base needs "
                          f"{shapes[ours].shape}")
  return method, {ours: tensors[TENSOR].astype("float32") / _factor(method, base)}


def _factor(method: Method, base: Base) -> float:
  """Their vectors over ours."""
  scaled = method.name != "prefix_tuning" and getattr(base.model.config, "scale_embedding", False)
  return float(np.float32(base.model.config.width ** 0.5)) if scaled else 1.0


def write(method: Method, base: Base, params: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """adapter_config.json's keys and the vectors, made by their network where there is one."""
  network = method.adapt(base.model).bind(params)
  depth, heads, hidden = network.config.depth, network.config.heads, method.knobs.get("hidden")
  common = dict(num_virtual_tokens=method.knobs["tokens"], num_layers=depth, num_transformer_submodules=1)
  if method.name == "prefix_tuning":
    groups, width = network.blocks.attention.key.outputs
    said = dict(peft_type="PREFIX_TUNING", token_dim=groups * width, num_attention_heads=groups,
                encoder_hidden_size=groups * width, prefix_projection=False)
    return common | said, {TENSOR: np.asarray(network.prefix(), np.float32)}
  said = dict(token_dim=network.config.width, num_attention_heads=heads)
  if method.name == "p_tuning":
    said |= dict(peft_type="P_TUNING", encoder_reparameterization_type="MLP", encoder_hidden_size=hidden or
                 network.config.width, encoder_num_layers=2, encoder_dropout=0.0)
  else:
    said |= dict(peft_type="PROMPT_TUNING", prompt_tuning_init="RANDOM")
  return common | said, {TENSOR: np.asarray(network.tokens.prompt(), np.float32) * _factor(method, base)}
