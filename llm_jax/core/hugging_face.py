"""Families of Hugging Face models: what a models/ file says of the folders that it reads (core/tensor_table.py: their
tensors), and the keys of config.json, each used, known to change no number, or refused.

`hub/` asks here and knows no architecture.
"""

import dataclasses
import functools
import importlib
import json
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llm_jax.core.errors import ConfigError, unknown_name
from llm_jax.core.model import Model
from llm_jax.core.plugins import ROOT, check_type
from llm_jax.core.tensor_table import Names


@dataclasses.dataclass(frozen=True)
class Family:
  """How folders of these model types read and are written. A models/ file declares one as `HUGGING_FACE`.

  model_types: values of config.json's `model_type`; config: our config class, with fields `head`, `labels` and `dtype`;
  build: config -> Model; config_from_hf and config_to_hf: config.json's dict to our config and back; names: config ->
  table, whose rows count only where the model has the parameter; prefix: config -> what their backbone's names start
  with in this class ('' for a bare model); prefixes: every such prefix, so that a folder may use another or none;
  ignored: regular expressions of tensors that are no parameters (mask buffers); tied: {their name: the tensor that it
  repeats}, absent or duplicated when tied; repeated: {their name: tensor of the table}, a second copy that files of the
  class hold too; untie: config -> config with a head of its own; heads: our names that start so belong to a head, which
  a folder of another head may lack; head_tensors: regular expression of their names that belong to some head.
  """

  model_types: tuple[str, ...]
  config: type
  build: Callable[[Any], Model]
  config_from_hf: Callable[[Mapping[str, Any]], Any]
  config_to_hf: Callable[[Any], dict[str, Any]]
  names: Callable[[Any], Names]
  prefix: Callable[[Any], str] = lambda config: ""
  prefixes: tuple[str, ...] = ()
  ignored: tuple[str, ...] = ()
  tied: Callable[[Any], Mapping[str, str]] = lambda config: {}
  repeated: Callable[[Any], Mapping[str, str]] = lambda config: {}
  untie: Callable[[Any], Any] = lambda config: config
  heads: tuple[str, ...] = ("head.", "classifier.")
  head_tensors: str = r"^(lm_head|score|classifier|qa_outputs|multiple_choice_head)\."


# Keys of every config.json about the folder, training or generation, that change no number of a forward pass.
DESCRIPTIVE = frozenset("""
_attn_implementation _attn_implementation_autoset _commit_hash _experts_implementation _name_or_path architectures
attention_dropout attention_probs_dropout_prob attn_implementation attn_pdrop auto_map bad_words_ids
begin_suppress_tokens bos_token_id cache_implementation chunk_size_feed_forward classifier_dropout
cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype early_stopping embd_pdrop
encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id
forced_eos_token_id gradient_checkpointing hidden_dropout hidden_dropout_prob id2label initializer_factor
initializer_range initializer_std is_decoder is_encoder_decoder label2id length_penalty mask_token_id max_length
min_length model_max_length model_type name_or_path no_repeat_ngram_size num_beam_groups num_beams num_labels
num_return_sequences output_attentions output_hidden_states output_router_logits output_scores pad_token_id prefix
pretraining_tp problem_type pruned_heads remove_invalid_values repetition_penalty resid_pdrop return_dict
return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript transformers_version typical_p unk_token_id
use_bfloat16 use_cache use_return_dict
""".split())  # noqa: SIM905
# Of a key nobody here knows, what its name says: these words are about arithmetic, and such a key is refused.
ARITHMETIC = re.compile(r"attn|attention|rope|rotary|norm|scal|multipl|parallel|bias|expert|moe|cap|window|residual|"
                        r"activation|(^|_)act(_|$)|layer|alibi|quant|mlp|embed|head|hidden|position|factor|clip|sparse")
ENDS, UNSAID = ("bos_token_id", "eos_token_id"), "unsaid"
CARRIED = (*ENDS, "pad_token_id", "id2label", "label2id", "problem_type")


class ConfigReader:
  """A config.json read key by key: each key is used, known to change no number, or refused.

  Args:
    hf: the parsed config.json. defaults: what Hugging Face's config class takes for absent keys.
  """

  def __init__(self, hf: Mapping[str, Any], defaults: Mapping[str, Any]):
    self.hf, self.defaults = hf, defaults
    self.used: set[str] = set()

  def __call__(self, key: str, kind: Any, *aliases: str) -> Any:
    """The value of `key`, of an alias, or the class's default.

    Raises:
      ConfigError: a value that is not of type `kind`.
    """
    self.used |= {key, *aliases}
    for name in (key, *aliases):
      if name in self.hf:
        return check_type(self.hf[name], kind, f"config.json: {name}")
    return self.defaults.get(key)

  def only(self, key: str, *accepted: Any) -> None:
    """Refuses any value of `key` but these; the first is the default.

    Raises:
      ConfigError: with the values that are supported.
    """
    self.used.add(key)
    if self.hf.get(key, accepted[0]) not in accepted:
      raise ConfigError(f"config.json: {key}", f"{self.hf[key]!r} is not supported by this model type",
                        accepted=" or ".join(json.dumps(a) for a in accepted))

  def finish(self, harmless: Iterable[str] = ()) -> None:
    """Refuses keys that were not read, are set, and by their name may change the numbers.

    Raises:
      ConfigError: naming the key.
    """
    for key in sorted(set(self.hf) - self.used - DESCRIPTIVE - set(harmless)):
      if self.hf[key] not in (None, False, "", [], {}) and ARITHMETIC.search(key):
        raise ConfigError(f"config.json: {key}", f"{self.hf[key]!r} is not supported by this model type",
                          accepted="the key absent, null or false")

  def carried(self) -> str:
    """JSON of the keys that change no number but that a saved folder should keep: token ids, names of labels. The ids
    that a folder leaves to their class are `UNSAID`."""
    said = {k: self.hf[k] for k in CARRIED if self.hf.get(k) is not None}
    return json.dumps({k: UNSAID for k in ENDS if k not in self.hf} | said, sort_keys=True)


def head_of(hf: Mapping[str, Any], heads: Mapping[str, str]) -> str:
  """Our head for config.json's `architectures`; 'lm' when it names none.

  Raises:
    ConfigError: a class that is not in `heads`.
  """
  given = hf.get("architectures") or []
  if not given:
    return "lm"
  if given[0] not in heads:
    raise unknown_name("config.json: architectures", given[0], list(heads), what="class")
  return heads[given[0]]


def architecture_of(head: str, heads: Mapping[str, str]) -> str:
  """Their class for our head.

  Raises:
    ConfigError: no class of this model type has it.
  """
  for name, ours in heads.items():
    if ours == head:
      return name
  raise unknown_name("config.model.head", head, sorted(set(heads.values())), what="head for Hugging Face")


def labels_of(hf: Mapping[str, Any]) -> int:
  """Number of labels: length of `id2label`, else `num_labels`, else 2."""
  return len(hf["id2label"]) if hf.get("id2label") else int(hf.get("num_labels") or 2)


def description(config: Any, architecture: str, model_type: str) -> dict[str, Any]:
  """The keys of config.json that say what the folder is: class, labels, and what was carried from the folder read."""
  carried = json.loads(config.carried)
  if len(carried.get("id2label") or {}) != config.labels or config.head not in ("sequence", "token"):
    carried = {k: v for k, v in carried.items() if k not in ("id2label", "label2id")}
  said = dict(model_type=model_type, architectures=[architecture], **dict.fromkeys(ENDS)) | carried
  said = {k: v for k, v in said.items() if v != UNSAID}
  if config.head in ("sequence", "token"):
    names = said.setdefault("id2label", {str(i): f"LABEL_{i}" for i in range(config.labels)})
    said.setdefault("label2id", {name: int(i) for i, name in names.items()})
    said["num_labels"] = config.labels
  return said


def checked_round_trip(config: Any, hf: dict[str, Any], family: Family, ignore: Sequence[str]) -> dict[str, Any]:
  """`hf` if reading it gives `config` back.

  Raises:
    ConfigError: the config has something that Hugging Face's class cannot say; names the fields.
  """
  again = dataclasses.asdict(family.config_from_hf(hf))
  close = lambda a, b: a == b or (isinstance(a, float) and isinstance(b, float) and math.isclose(a, b))
  lost = [k for k, v in dataclasses.asdict(config).items() if k not in ignore and not close(again[k], v)]
  if lost:
    raise ConfigError("config.model", f"a {hf['model_type']} folder cannot say " +
                      ", ".join(f"{k}={getattr(config, k)!r}" for k in lost),
                      accepted="the published architecture; use our own checkpoints for this one")
  return hf


@functools.cache
def families() -> tuple[Family, ...]:
  """What every models/ file that declares `HUGGING_FACE` says; adding a file adds a family."""
  files = [p.stem for p in sorted((ROOT / "models").glob("*.py"))
           if re.search(r"^HUGGING_FACE\b.*=", p.read_text("utf-8"), re.MULTILINE)]
  return tuple(importlib.import_module(f"llm_jax.models.{stem}").HUGGING_FACE for stem in files)


def family_of_type(model_type: Any) -> Family:
  """The family that reads this `model_type`.

  Raises:
    ConfigError: none does; lists those that are read.
  """
  for family in families():
    if model_type in family.model_types:
      return family
  known = [t for f in families() for t in f.model_types]
  raise unknown_name("config.json: model_type", model_type, known, what="architecture")


def family_of_config(config: Any) -> Family:
  """The family whose config class this is.

  Raises:
    ConfigError: Hugging Face has no such architecture.
  """
  for family in families():
    if type(config) is family.config:
      return family
  raise ConfigError("config.model", f"{type(config).__name__} has no form in Hugging Face's folders",
                    accepted=", ".join(f.config.__name__ for f in families()))


def read_config(path: pathlib.Path) -> tuple[Family, Any]:
  """The family of a config.json and its config in our words.

  Raises:
    ConfigError: not readable, an unknown architecture, or a key that is not supported; names the file and the key.
  """
  try:
    given = json.loads(path.read_text("utf-8"))
  except (OSError, ValueError) as e:
    raise ConfigError(str(path), f"not readable as JSON ({e})", accepted="a model's config.json") from None
  return config_of(given, str(path.parent))


def config_of(given: Any, where: str) -> tuple[Family, Any]:
  """The family and config of a parsed config.json; `where` is named in errors."""
  if not isinstance(given, Mapping):
    raise ConfigError(f"{where}/config.json", f"holds a {type(given).__name__}, not an object")
  try:
    family = family_of_type(given.get("model_type", given.get("model")))
    return family, family.config_from_hf(given)
  except ConfigError as e:
    raise ConfigError(f"{where}/{e.key}", e.problem, accepted=e.accepted, nearest=e.nearest) from None
