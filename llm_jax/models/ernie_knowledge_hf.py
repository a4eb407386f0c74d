"""How the folders of ERNIE with knowledge read: the tensor names of the released code, whose config says `layer_types`.

transformers has no such class. Our own folders say model_type 'ernie-knowledge'; the entities' vectors are data and not
part of them.
"""

from collections.abc import Mapping
from typing import Any

from llm_jax.core import hugging_face as hf
from llm_jax.core import tensor_table as tensors
from llm_jax.models.ernie_knowledge import from_config
from llm_jax.models.ernie_knowledge_config import KINDS, ErnieKnowledgeConfig

MODEL_TYPE = "ernie-knowledge"
# Our field: (their key, its type). All in both directions.
KEYS: dict[str, tuple[Any, ...]] = {
    "vocab_size": ("vocab_size", int), "positions": ("max_position_embeddings", int),
    "types": ("type_vocab_size", int), "width": ("hidden_size", int), "heads": ("num_attention_heads", int),
    "hidden": ("intermediate_size", int), "entity_width": ("entity_size", int), "entity_heads": ("entity_heads", int),
    "act": ("hidden_act", str), "epsilon": ("layer_norm_eps", float), "dropout": ("hidden_dropout_prob", float),
    "attention_dropout": ("attention_probs_dropout_prob", float), "tied": ("tie_word_embeddings", bool),
}
DEFAULTS: dict[str, Any] = dict(
    max_position_embeddings=512, type_vocab_size=2, hidden_size=768, num_attention_heads=12, intermediate_size=3072,
    entity_size=100, entity_heads=4, hidden_act="gelu", layer_norm_eps=1e-12, hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1, tie_word_embeddings=True,
)
HEADS = {"ErnieKnowledgeForPreTraining": "pretraining", "ErnieKnowledgeForSequenceClassification": "sequence",
         "ErnieKnowledgeForTokenClassification": "token", "ErnieKnowledgeModel": "none"}


def names(config: ErnieKnowledgeConfig) -> tensors.Names:
  """Layers of one kind are a stack of ours and carry the numbers of the whole network in their names."""
  found = (
      tensors.embedding("tokens", "bert.embeddings.word_embeddings")
      | tensors.embedding("positions", "bert.embeddings.position_embeddings")
      | tensors.embedding("types", "bert.embeddings.token_type_embeddings")
      | tensors.norm("embed_norm", "bert.embeddings.LayerNorm")
      | tensors.linear("pooler.dense", "bert.pooler.dense")
      | tensors.linear("head.dense", "cls.predictions.transform.dense")
      | tensors.norm("head.norm", "cls.predictions.transform.LayerNorm")
      | tensors.vector("head.bias", "cls.predictions.bias")
      | tensors.matrix("head.decoder.kernel", "cls.predictions.decoder.weight")
      | tensors.linear("entity_head.dense", "cls.predictions_ent.transform.dense")
      | tensors.norm("entity_head.norm", "cls.predictions_ent.transform.LayerNorm")
      | tensors.linear("classifier", "cls.seq_relationship" if config.head == "pretraining" else "classifier")
  )
  for kind in KINDS:
    numbers = [i for i, k in enumerate(config.layers) if k == kind]
    found |= tensors.only_layers(numbers, _tokens(kind) | ({} if kind == "sim" else _entities(kind)))
  return found


LAYER = "bert.encoder.layer.{layer}"


def _tokens(kind: str) -> tensors.Names:
  inner = ("feed_forward.up", "feed_forward.down", "feed_forward_norm") if kind == "sim" else ("up", "down", "norm")
  return _layer(f"{kind}.", "", *inner)


def _entities(kind: str) -> tensors.Names:
  return _layer(f"{kind}.entity_", "_ent", "up", "down", "norm")


def _layer(ours: str, theirs: str, up: str, down: str, norm: str) -> tensors.Names:
  """Attention and feed-forward of one side. ours: what our names begin with; theirs: what ends the names of theirs."""
  into, out = f"{LAYER}.attention.self{theirs}", f"{LAYER}.attention.output{theirs}"
  return (
      tensors.linear(f"{ours}attention.query", f"{into}.query")
      | tensors.linear(f"{ours}attention.key", f"{into}.key")
      | tensors.linear(f"{ours}attention.value", f"{into}.value")
      | tensors.linear(f"{ours}attention.out", f"{out}.dense", inputs=2)
      | tensors.norm(f"{ours}attention_norm", f"{out}.LayerNorm")
      | tensors.linear(f"{ours}{up}", f"{LAYER}.intermediate.dense{theirs}")
      | tensors.linear(f"{ours}{down}", f"{LAYER}.output.dense{theirs}")
      | tensors.norm(f"{ours}{norm}", f"{LAYER}.output.LayerNorm{theirs}")
  )


def config_from_hf(given: Mapping[str, Any]) -> ErnieKnowledgeConfig:
  """The architecture that a config.json says.

  Raises:
    ConfigError: a key that this file does not support and that would change the numbers.
  """
  read = hf.ConfigReader(given, DEFAULTS)
  fields: dict[str, Any] = {ours: read(*key) for ours, key in KEYS.items()}
  fields["layers"] = tuple(read("layer_types", list))
  read.only("num_hidden_layers", len(fields["layers"]), None)
  read.finish()
  head: Any = hf.head_of(given, HEADS) if given.get("architectures") else "pretraining"
  return ErnieKnowledgeConfig(head=head, labels=hf.labels_of(given), carried=read.carried(), **fields)


def config_to_hf(config: ErnieKnowledgeConfig) -> dict[str, Any]:
  """The config.json of this architecture."""
  said: dict[str, Any] = {key[0]: getattr(config, ours) for ours, key in KEYS.items()}
  said |= dict(layer_types=list(config.layers), num_hidden_layers=len(config.layers))
  said |= hf.description(config, hf.architecture_of(config.head, HEADS), MODEL_TYPE)
  return hf.checked_round_trip(config, said, HUGGING_FACE, IGNORE)


IGNORE = ("dtype", "remat", "scan", "attention", "labels", "carried")
HUGGING_FACE = hf.Family(
    model_types=(MODEL_TYPE,), config=ErnieKnowledgeConfig, build=from_config, names=names,
    config_from_hf=config_from_hf, config_to_hf=config_to_hf, prefix=lambda config: "bert.", prefixes=("bert.",),
    tied=lambda config: {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"},
    ignored=(r"(^|\.)position_ids$",), heads=("head.", "entity_head.", "classifier."),
    head_tensors=r"^(cls|classifier)\.",
)
