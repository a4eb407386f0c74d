"""How the word language model over characters lies in folders: PyTorch's names; config.json says `model`: KimCharLM."""

from collections.abc import Mapping
from typing import Any

from llm_jax.core import hugging_face as hf
from llm_jax.core import tensor_table as tensors
from llm_jax.models.char_cnn_hf import convolution
from llm_jax.models.char_word_lm import CharWordConfig, from_config
from llm_jax.models.lstm_hf import layers

KEYS = {"vocab_size": "vocab_size", "characters": "chars", "character_width": "char_dim", "highway": "highway_layers",
        "hidden": "hidden_size", "depth": "num_layers"}


def names(config: CharWordConfig) -> tensors.Names:
  """The table of a config."""
  found = tensors.embedding("characters", "char_embedding") | tensors.linear("head", "head")
  for i in range(len(config.filters)):
    found |= convolution(f"conv.{i}", f"conv.{i}")
  for i in range(config.highway):
    found |= tensors.matrix(f"highway.{i}.gate.kernel", f"highway_gate.{i}.weight")
    found |= tensors.vector(f"highway.{i}.gate_bias", f"highway_gate.{i}.bias")
    found |= tensors.linear(f"highway.{i}.transform", f"highway_transform.{i}")
  return found | layers("layers", "rnn", config.depth, 1)


def config_from_hf(given: Mapping[str, Any]) -> CharWordConfig:
  """The network that a config.json says."""
  read = hf.ConfigReader(given, {})
  filters = tuple((int(width), int(count)) for width, count in read("filters", list))
  return CharWordConfig(**{ours: read(theirs, int) for ours, theirs in KEYS.items()}, filters=filters)


def config_to_hf(config: CharWordConfig) -> dict[str, Any]:
  """The config.json of a network."""
  said: dict[str, Any] = {theirs: getattr(config, ours) for ours, theirs in KEYS.items()}
  said |= dict(model="KimCharLM", model_type="KimCharLM", filters=[list(f) for f in config.filters])
  return hf.checked_round_trip(config, said, HUGGING_FACE, ("dropout", "init_limit", "dtype"))


HUGGING_FACE = hf.Family(model_types=("KimCharLM",), config=CharWordConfig, build=from_config, names=names,
                         config_from_hf=config_from_hf, config_to_hf=config_to_hf)
