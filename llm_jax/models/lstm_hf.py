"""How recurrent networks lie in folders: PyTorch's nn.LSTM and nn.GRU beside an embedding and a linear head.

transformers has no such models, so config.json names its class under `model`: RNNLM (a language model) or BiRNN (labels
of tokens, both directions). Tensors have the names of torch.nn: rnn.weight_ih_l0, rnn.bias_hh_l1_reverse.
"""

from collections.abc import Mapping
from typing import Any

from llm_jax.core import hugging_face as hf
from llm_jax.core import tensor_table as tensors
from llm_jax.models.lstm import RecurrentConfig, from_config

KEYS = {"vocab_size": "vocab_size", "embedding": "embedding_size", "hidden": "hidden_size", "depth": "num_layers"}


def layers(ours: str, theirs: str, depth: int, directions: int) -> tensors.Names:
  """A RecurrentStack against an nn.LSTM or nn.GRU."""
  found: tensors.Names = {}
  for n in range(depth * directions):
    ending = f"_l{n // directions}" + ("_reverse" if n % directions else "")
    for part, name in (("input", "ih"), ("hidden", "hh")):
      found |= tensors.matrix(f"{ours}.layers.{n}.{part}.kernel", f"{theirs}.weight_{name}{ending}")
      found |= tensors.vector(f"{ours}.layers.{n}.{part}.bias", f"{theirs}.bias_{name}{ending}")
  return found


def names(config: RecurrentConfig) -> tensors.Names:
  """The table of a config."""
  return (tensors.embedding("tokens", "embedding") | tensors.linear("head", "head")
          | layers("layers", "rnn", config.depth, 2 if config.bidirectional else 1))


def config_from_hf(given: Mapping[str, Any]) -> RecurrentConfig:
  """The network that a config.json says.

  Raises:
    ConfigError: a value of another type.
  """
  read = hf.ConfigReader(given, {})
  fields: dict[str, Any] = {ours: read(theirs, int) for ours, theirs in KEYS.items()}
  if given["model"] == "BiRNN":
    return RecurrentConfig(**fields, bidirectional=True, head="token", labels=read("num_labels", int))
  cell: Any = read("cell", str)
  return RecurrentConfig(**fields, cell=cell)


def config_to_hf(config: RecurrentConfig) -> dict[str, Any]:
  """The config.json of a network.

  Raises:
    ConfigError: something that these two classes cannot say.
  """
  said: dict[str, Any] = {theirs: getattr(config, ours) for ours, theirs in KEYS.items()}
  if config.bidirectional:
    said |= dict(model="BiRNN", model_type="BiRNN", num_labels=config.labels)
  else:
    said |= dict(model="RNNLM", model_type="RNNLM", cell=config.cell)
  return hf.checked_round_trip(config, said, HUGGING_FACE, IGNORE)


IGNORE = ("dropout", "variational", "state_dropout", "word_dropout", "init_limit", "labels", "dtype")
HUGGING_FACE = hf.Family(model_types=("RNNLM", "BiRNN"), config=RecurrentConfig, build=from_config, names=names,
                         config_from_hf=config_from_hf, config_to_hf=config_to_hf)
