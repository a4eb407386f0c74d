"""How character classifiers lie in folders: PyTorch's names; config.json says `model`: ZhangCharCNN.

transformers has no such model, so the tensors are those of torch.nn: convolutions (out, in, width), linear (out, in).
"""

from collections.abc import Mapping
from typing import Any

from llm_jax.core import hugging_face as hf
from llm_jax.core import tensor_table as tensors
from llm_jax.models.char_cnn import WIDTHS, CharCNNConfig, from_config

KEYS = {name: name for name in ("alphabet", "features", "length", "hidden")} | {"labels": "num_labels"}


def convolution(ours: str, theirs: str) -> tensors.Names:
  """A Convolution against an nn.Conv1d."""
  bias = tensors.vector(f"{ours}.bias", f"{theirs}.bias")
  return tensors.same(f"{ours}.kernel", f"{theirs}.weight", (2, 1, 0)) | bias


def names(config: CharCNNConfig) -> tensors.Names:
  """The table of a config."""
  found: tensors.Names = {}
  for i in range(len(WIDTHS)):
    found |= convolution(f"conv.{i}", f"conv.{i}")
  for i in range(3):
    found |= tensors.linear(f"fc.{i}", f"fc.{i}")
  return found


def config_from_hf(given: Mapping[str, Any]) -> CharCNNConfig:
  """The network that a config.json says."""
  read = hf.ConfigReader(given, {})
  return CharCNNConfig(**{ours: read(theirs, int) for ours, theirs in KEYS.items()})


def config_to_hf(config: CharCNNConfig) -> dict[str, Any]:
  """The config.json of a network."""
  said = {theirs: getattr(config, ours) for ours, theirs in KEYS.items()}
  return hf.checked_round_trip(config, said | dict(model="ZhangCharCNN", model_type="ZhangCharCNN"), HUGGING_FACE,
                               ("dropout", "deviation", "dtype"))


HUGGING_FACE = hf.Family(model_types=("ZhangCharCNN",), config=CharCNNConfig, build=from_config, names=names,
                         config_from_hf=config_from_hf, config_to_hf=config_to_hf)
