"""How BERT, RoBERTa, DistilBERT, ELECTRA and ERNIE folders read in Hugging Face's words: keys of config.json, tensors.

One encoder under several names: a `Dialect` per model type says what its classes call things.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from llm_jax.core import hugging_face as hf
from llm_jax.core import tensor_table as tensors
from llm_jax.models.bert import DISTILBERT, ROBERTA, from_config
from llm_jax.models.bert_encoder import BertConfig
from llm_jax.models.electra import ELECTRA

# Our module: theirs.
LAYER = {
    "attention.query": "attention.self.query", "attention.key": "attention.self.key",
    "attention.value": "attention.self.value", "attention.out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm", "feed_forward.up": "intermediate.dense",
    "feed_forward.down": "output.dense", "feed_forward_norm": "output.LayerNorm",
}
DISTILBERT_LAYER = {
    "attention.query": "attention.q_lin", "attention.key": "attention.k_lin", "attention.value": "attention.v_lin",
    "attention.out": "attention.out_lin", "attention_norm": "sa_layer_norm", "feed_forward.up": "ffn.lin1",
    "feed_forward.down": "ffn.lin2", "feed_forward_norm": "output_layer_norm",
}
HEAD = {"head.dense": "cls.predictions.transform.dense", "head.norm": "cls.predictions.transform.LayerNorm",
        "head.decoder": "cls.predictions.decoder", "head.bias": "cls.predictions.bias"}
ROBERTA_HEAD = {"head.dense": "lm_head.dense", "head.norm": "lm_head.layer_norm", "head.decoder": "lm_head.decoder",
                "head.bias": "lm_head.bias"}
DISTILBERT_HEAD = {"head.dense": "vocab_transform", "head.norm": "vocab_layer_norm", "head.decoder": "vocab_projector",
                   "head.bias": "vocab_projector.bias"}
ELECTRA_HEAD = {"head.dense": "generator_predictions.dense", "head.norm": "generator_predictions.LayerNorm",
                "head.decoder": "generator_lm_head", "head.bias": "generator_lm_head.bias"}

# Our field: (their key, its type).
KEYS: dict[str, tuple[Any, ...]] = {
    "vocab_size": ("vocab_size", int), "positions": ("max_position_embeddings", int), "width": ("hidden_size", int),
    "depth": ("num_hidden_layers", int), "heads": ("num_attention_heads", int), "hidden": ("intermediate_size", int),
    "token_types": ("type_vocab_size", int), "act": ("hidden_act", str), "epsilon": ("layer_norm_eps", float),
    "dropout": ("hidden_dropout_prob", float), "attention_dropout": ("attention_probs_dropout_prob", float),
    "classifier_dropout": ("classifier_dropout", float | None), "tied": ("tie_word_embeddings", bool),
    "pad_token": ("pad_token_id", int | None),
}
DISTILBERT_KEYS: dict[str, tuple[Any, ...]] = {
    "vocab_size": ("vocab_size", int), "positions": ("max_position_embeddings", int),
    "width": ("dim", int, "hidden_size"), "depth": ("n_layers", int, "num_hidden_layers"),
    "heads": ("n_heads", int, "num_attention_heads"), "hidden": ("hidden_dim", int), "act": ("activation", str),
    "dropout": ("dropout", float), "attention_dropout": ("attention_dropout", float),
    "classifier_dropout": ("seq_classif_dropout", float), "question_dropout": ("qa_dropout", float),
    "tied": ("tie_word_embeddings", bool), "pad_token": ("pad_token_id", int | None),
}
DEFAULTS = dict(
    vocab_size=30_522, max_position_embeddings=512, hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
    intermediate_size=3072, type_vocab_size=2, hidden_act="gelu", layer_norm_eps=1e-12, hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1, classifier_dropout=None, tie_word_embeddings=True, pad_token_id=0,
)
ROBERTA_DEFAULTS = DEFAULTS | dict(vocab_size=50_265, pad_token_id=1)
ELECTRA_DEFAULTS = DEFAULTS | dict(embedding_size=128, hidden_size=256, num_attention_heads=4, intermediate_size=1024)
ERNIE_DEFAULTS = DEFAULTS | dict(task_type_vocab_size=3, use_task_id=False)
DISTILBERT_DEFAULTS = dict(
    vocab_size=30_522, max_position_embeddings=512, dim=768, n_layers=6, n_heads=12, hidden_dim=3072, activation="gelu",
    dropout=0.1, attention_dropout=0.1, seq_classif_dropout=0.2, qa_dropout=0.1, tie_word_embeddings=True,
    pad_token_id=0,
)
LABELS = {"ForSequenceClassification": "sequence", "ForTokenClassification": "token",
          "ForQuestionAnswering": "question", "ForMultipleChoice": "choice", "Model": "none", "ForMaskedLM": "lm"}
PAIRS = LABELS | {"ForPreTraining": "pretraining", "ForNextSentencePrediction": "next_sentence"}


@dataclasses.dataclass(frozen=True)
class Dialect:
  """What one model type calls things. classes: its name in classes; trunk: where its encoder's tensors are; layers:
  where its layers are below that; layer, head: names of modules; pooler: {head of ours: module}, None for the others;
  classifier: module that scores a sequence; fields: of our config, fixed by the type; tied_bias: the decoder has a bias
  of its own beside the head's, which repeats it."""

  classes: str
  trunk: str
  defaults: Mapping[str, Any]
  keys: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=lambda: KEYS)
  layers: str = "encoder.layer"
  layer: Mapping[str, str] = dataclasses.field(default_factory=lambda: LAYER)
  head: Mapping[str, str] = dataclasses.field(default_factory=lambda: HEAD)
  heads: Mapping[str, str] = dataclasses.field(default_factory=lambda: LABELS)
  pooler: Mapping[str | None, str] = dataclasses.field(default_factory=dict)
  classifier: str = "classifier"
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  tied_bias: bool = True

  @property
  def architectures(self) -> dict[str, str]:
    """{class: head of ours}."""
    return {self.classes + ending: head for ending, head in self.heads.items()}


def _fixed(variant: Mapping[str, Any]) -> dict[str, Any]:
  """The fields that a type's config.json does not say."""
  said = {"family", "positions", "token_types", "pad_token", "epsilon"}
  return {k: v for k, v in variant.items() if k not in said}


XLM = Dialect("XLMRoberta", "roberta", ROBERTA_DEFAULTS, head=ROBERTA_HEAD, classifier="classifier.out_proj",
              pooler={"sequence": "classifier.dense", None: "roberta.pooler.dense"}, fields=_fixed(ROBERTA))
DIALECTS: dict[str, Dialect] = {
    "bert": Dialect("Bert", "bert", DEFAULTS, heads=PAIRS, pooler={None: "bert.pooler.dense"}),
    "roberta": dataclasses.replace(XLM, classes="Roberta"),
    "xlm-roberta": XLM,
    "distilbert": Dialect("DistilBert", "distilbert", DISTILBERT_DEFAULTS, DISTILBERT_KEYS, "transformer.layer",
                          DISTILBERT_LAYER, DISTILBERT_HEAD, pooler={None: "pre_classifier"}, tied_bias=False,
                          fields=_fixed(DISTILBERT) | dict(token_types=0, epsilon=1e-12)),
    "electra": Dialect("Electra", "electra", ELECTRA_DEFAULTS, KEYS | {"embed_width": ("embedding_size", int)},
                       head=ELECTRA_HEAD, heads=LABELS | {"ForPreTraining": "replaced"}, tied_bias=False,
                       pooler={"sequence": "classifier.dense", None: "sequence_summary.summary"},
                       classifier="classifier.out_proj",
                       fields=_fixed(ELECTRA)),
    "ernie": Dialect("Ernie", "ernie", ERNIE_DEFAULTS, heads=PAIRS, pooler={None: "ernie.pooler.dense"}),
}
HARMLESS = ("directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
            "pooler_size_per_head", "pooler_type", "sinusoidal_pos_embds", "tie_weights_", "summary_type",
            "summary_use_proj", "summary_activation", "summary_last_dropout", "task_type_vocab_size", "use_task_id",
            "embedding_size")


def names(config: BertConfig) -> tensors.Names:
  """The rows of this config's dialect."""
  d = DIALECTS[config.family]
  table: tensors.Names = {}
  for ours, theirs in {"tokens": "word", "positions": "position", "token_types": "token_type",
                       "task_types": "task_type"}.items():
    table |= tensors.embedding(f"embeddings.{ours}", f"{d.trunk}.embeddings.{theirs}_embeddings")
  table |= tensors.norm("embeddings.norm", f"{d.trunk}.embeddings.LayerNorm")
  table |= tensors.linear("encoder.project", f"{d.trunk}.embeddings_project")
  for ours, theirs in d.layer.items():
    row = tensors.norm if ours.endswith("norm") else tensors.linear
    inputs = dict(inputs=2) if ours == "attention.out" else {}
    table |= row(f"encoder.blocks.{ours}", f"{d.trunk}.{d.layers}.{{layer}}.{theirs}", **inputs)
  bias = d.head["head.bias"] if config.tied or not d.tied_bias else f"{d.head['head.decoder']}.bias"
  table |= tensors.linear("head.dense", d.head["head.dense"]) | tensors.norm("head.norm", d.head["head.norm"])
  table |= tensors.matrix("head.decoder.kernel", f"{d.head['head.decoder']}.weight") | tensors.vector("head.bias", bias)
  table |= tensors.linear("replaced.dense", "discriminator_predictions.dense")
  table |= tensors.linear("replaced.score", "discriminator_predictions.dense_prediction")
  table |= tensors.linear("next_sentence", "cls.seq_relationship")
  table |= tensors.linear("pooler.dense", d.pooler.get(config.head, d.pooler[None]))
  classifier = {"sequence": d.classifier, "question": "qa_outputs"}.get(config.head, "classifier")
  return table | tensors.linear("classifier", classifier)


def tied(config: BertConfig) -> dict[str, str]:
  """{copy: the tensor that is stored}: the decoder shares the token table and, in some classes, the head's bias."""
  d = DIALECTS[config.family]
  if not config.tied:
    return {}
  decoder = d.head["head.decoder"]
  bias = {f"{decoder}.bias": d.head["head.bias"]} if d.tied_bias else {}
  return {f"{decoder}.weight": f"{d.trunk}.embeddings.word_embeddings.weight"} | bias


def repeated(config: BertConfig) -> dict[str, str]:
  """{copy: original}: an untied decoder reads its own bias, and the head's, which nothing reads, is there as well."""
  d = DIALECTS[config.family]
  return {} if config.tied or not d.tied_bias else {d.head["head.bias"]: f"{d.head['head.decoder']}.bias"}


def config_from_hf(given: Mapping[str, Any]) -> BertConfig:
  """The architecture that a config.json says.

  Raises:
    ConfigError: a key that this file does not support and that would change the numbers.
  """
  family = given["model_type"]
  d = DIALECTS[family]
  read = hf.ConfigReader(given, d.defaults)
  fields: dict[str, Any] = {ours: read(*key) for ours, key in d.keys.items()} | dict(d.fields)
  for key in ("is_decoder", "add_cross_attention"):
    read.only(key, False)
  read.only("position_embedding_type", "absolute")
  head: Any = hf.head_of(given, d.architectures)
  if family == "electra":
    fields["embed_width"] = None if fields["embed_width"] == fields["width"] else fields["embed_width"]
  if family == "electra" and head == "choice":
    for key, value in (("summary_type", "first"), ("summary_use_proj", True), ("summary_activation", "gelu"),
                       ("summary_proj_to_labels", False)):
      read.only(key, value)
  if "use_task_id" in d.defaults:
    count = read("task_type_vocab_size", int)
    fields["task_types"] = count if read("use_task_id", bool) else 0
  read.finish(HARMLESS)
  return BertConfig(family=family, head=head, labels=hf.labels_of(given), carried=read.carried(), **fields)


def config_to_hf(config: BertConfig) -> dict[str, Any]:
  """The config.json of this architecture.

  Raises:
    ConfigError: something that the family's class cannot say.
  """
  d = DIALECTS[config.family]
  said: dict[str, Any] = {key[0]: getattr(config, ours) for ours, key in d.keys.items()}
  said |= hf.description(config, hf.architecture_of(config.head, d.architectures), config.family)
  said |= dict(pad_token_id=config.pad_token)
  if "embed_width" in d.keys:
    said["embedding_size"] = config.embed_width or config.width
  if "use_task_id" in d.defaults:
    said |= dict(use_task_id=config.task_types > 0, task_type_vocab_size=config.task_types or 3)
  if "seq_classif_dropout" in said and config.classifier_dropout is None:
    said["seq_classif_dropout"] = config.dropout
  return hf.checked_round_trip(config, said, HUGGING_FACE, IGNORE)


IGNORE = ("dtype", "remat", "scan", "attention", "labels", "carried", "classifier_dropout")
HUGGING_FACE = hf.Family(
    model_types=tuple(DIALECTS), config=BertConfig, build=from_config, names=names, config_from_hf=config_from_hf,
    config_to_hf=config_to_hf, tied=tied, repeated=repeated,
    prefix=lambda config: "" if config.head == "none" else f"{DIALECTS[config.family].trunk}.",
    prefixes=tuple(sorted({f"{d.trunk}." for d in DIALECTS.values()})),
    # Published files keep the pooler and the pair head that masked language models of this type do not have.
    ignored=(r"(^|\.)(position|token_type)_ids$", r"(^|\.)pooler\.dense\.", r"^cls\.seq_relationship\."),
    untie=lambda config: dataclasses.replace(config, tied=False),
    heads=("head.", "classifier.", "pooler.", "next_sentence.", "replaced."),
    head_tensors=r"^(cls|lm_head|classifier|pre_classifier|qa_outputs|sequence_summary|vocab_(transform|layer_norm|"
                 r"projector)|generator_(predictions|lm_head)|discriminator_predictions)\.|(^|\.)pooler\.",
)
