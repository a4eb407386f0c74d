"""Models that stand beside the one that is trained: the reference or teacher of an objective or a curriculum, and the
reward models of a policy. Each comes from a run's workdir or a Hugging Face folder, and its arrays lie frozen in the
train state, sharded as the model's own, so that a checkpoint holds them and a gradient does not.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.core.model import Model
from llm_jax.core.types import START, Curriculum, Extra, Objective, Params, TrainState
from llm_jax.data.corpus import Corpus
from llm_jax.data.tokenizers import Tokenizer

REFERENCE, JUDGE = "reference.", "reward."  # how the names of their arrays begin
JUDGE_KEY = "config.objective.reward.folder"


@dataclasses.dataclass(frozen=True)
class FrozenModel:
  """A model whose arrays lie frozen in the train state, under `prefix`. weights: None are those that the run starts
  from; copied: names of the arrays that lie there, where the others are the run's own, which stay as they are."""

  model: Model
  weights: Mapping[str, jax.Array] | None
  copied: frozenset[str]
  prefix: str = REFERENCE

  def params(self) -> dict[str, np.ndarray]:
    """Copies of given arrays, which every process has whole, by their names in the train state."""
    return {self.prefix + name: np.array(a, np.float32) for name, a in (self.weights or {}).items()}

  def apply(self, frozen: Params, *args: Any, key: Any = None, **kwargs: Any) -> Any:
    """The model's output, without dropout. frozen: of the train state, with the run's own arrays if they are read
    too."""
    own = {name: frozen[self.prefix + name if name in self.copied else name] for name in self.model.shapes}
    return self.model.apply(own, *args, **kwargs)

  def score(self, frozen: Params, tokens_NL: jax.Array, real_NL: jax.Array) -> jax.Array:
    """(N,) float32: the only score of each text, of the tokens that are real alone. Some heads know padding by the
    token that their config names, so that one is written there."""
    pad = getattr(self.model.config, "pad_token", None)
    tokens_NL = tokens_NL if pad is None else jnp.where(real_NL, tokens_NL, pad)
    output = self.apply(frozen, input_ids=tokens_NL, attention_mask=real_NL.astype(jnp.int32))
    scores_N: jax.Array = output.scores[:, 0].astype(jnp.float32)
    return scores_N


def load(corpus: Corpus, path: str, key: str) -> tuple[Model, dict[str, Any]]:
  """The model of a workdir or a Hugging Face folder.

  Raises:
    ConfigError: no model there, or it has another tokenizer.
  """
  from llm_jax import pretrained

  if corpus.tokenizer is None:
    raise ConfigError(key, "the data are no text, which the model of a folder reads", accepted="a text corpus")
  folder = pathlib.Path(path)
  if not folder.is_dir():
    raise ConfigError(key, f"no such folder {path!r}", accepted="the workdir of a run, or a Hugging Face folder")
  read = pretrained.from_workdir if pretrained.is_workdir(folder) else pretrained.from_hub
  model, params, tokenizer = read(folder, key=key)
  if not same_tokenizer(corpus.tokenizer, tokenizer):
    raise ConfigError(key, f"{path} has another tokenizer than the data",
                      accepted="a model with the same tokenizer; for a Hugging Face folder "
                               "config.data.tokenizer = dict(name='hub', path=FOLDER)")
  return model, params


def same_tokenizer(ours: Tokenizer, theirs: Any) -> bool:
  """Whether text becomes the same ids; theirs: of a workdir, or of a Hugging Face folder, which has no fingerprint."""
  if isinstance(theirs, Tokenizer):
    return ours.fingerprint == theirs.fingerprint
  return ours.kind == theirs.kind and ours.files()["tokenizer.json"] == theirs.content


def reference_of(curriculum: Curriculum, objective: Objective, corpus: Corpus, model: Model,
                 trained: Mapping[str, Any]) -> FrozenModel | None:
  """The reference model of the curriculum or of the objective, if one has it. model: that is trained; trained: its
  arrays that change.

  Raises:
    ConfigError: as `load`; or both name one and not the same; or it does not offer what the objective needs.
  """
  named = {k: path for k, path in (("config.curriculum.reference", curriculum.reference),
                                   (f"config.objective.{objective.reference_knob}", objective.reference))
           if path is not None}
  if not named:
    return None
  key, path = list(named.items())[-1]
  if len(set(named.values())) > 1:
    raise ConfigError(key, f"{path!r}, and the curriculum's reference is {curriculum.reference!r}",
                      accepted="one model for both")
  if path == START:
    return FrozenModel(model, None, frozenset(trained))
  found, weights = load(corpus, path, key)
  if missing := set(objective.needs if objective.reference else ()) - found.offers:
    raise ConfigError(key, f"the model of {path} does not offer {', '.join(sorted(missing))}",
                      accepted="a model that can be trained by the same objective")
  return FrozenModel(found, weights, frozenset(found.shapes))


def judges_of(objective: Objective, corpus: Corpus, length: int) -> tuple[FrozenModel, ...]:
  """The reward models of the objective, which read rows of `length` tokens.

  Raises:
    ConfigError: as `load`; or a model does not give one score for such a row.
  """
  made = []
  for i, path in enumerate(objective.judges):
    model, weights = load(corpus, path, JUDGE_KEY)
    check_scores(model, path, length)
    made.append(FrozenModel(model, weights, frozenset(model.shapes), f"{JUDGE}{i}."))
  return tuple(made)


def check_scores(model: Model, path: str, length: int) -> None:
  """Raises ConfigError if a model does not give one number for a text of `length` tokens."""
  accepted = "a run with the objective 'reward', or a Hugging Face folder for sequence classification with one label"
  if "classes" not in model.offers:
    offers = ", ".join(sorted(model.offers)) or "nothing"
    raise ConfigError(JUDGE_KEY, f"the model of {path} has no head for scores of a text; it offers {offers}",
                      accepted=accepted)
  config = model.config
  first = config.pad_token + 1 if getattr(config, "counts_real", False) else 0
  longest = getattr(config, "length", getattr(config, "positions", first + length) - first)
  if longest < length or (hasattr(config, "length") and longest > length):
    raise ConfigError(JUDGE_KEY, f"the model of {path} reads {longest} tokens, and rows have {length}",
                      accepted=f"a model for rows of {length} tokens, or config.train.length={longest}")
  ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
  scores = jax.eval_shape(lambda p, x: model.apply(p, input_ids=x, attention_mask=x).scores, model.shapes, ids)
  if scores.shape[-1] != 1:
    raise ConfigError(JUDGE_KEY, f"the model of {path} has {scores.shape[-1]} scores for a text, and a reward is one",
                      accepted=accepted)


def as_extras(models: Sequence[FrozenModel]) -> dict[str, Extra]:
  """Their arrays as further arrays of the trained model; their values come with `in_place`, or are those of the
  start."""
  zeros = lambda shape: lambda key: jnp.zeros(shape, jnp.float32)
  return {one.prefix + name: Extra(shape.shape, one.model.logical_axes[name], zeros(shape.shape))
          for one in models for name, shape in one.model.shapes.items() if name in one.copied}


def started(params: Params, models: Sequence[FrozenModel]) -> Params:
  """The arrays of a run at its start, those of models that are the start among them."""
  return params | {one.prefix + name: params[name] for one in models if one.weights is None for name in one.copied}


def freezing(section: Mapping[str, Any], models: Sequence[FrozenModel]) -> dict[str, Any]:
  """The optimizer's section with their arrays among what is not trained."""
  frozen = section["freeze"]
  return {**section, "freeze": [*([frozen] if isinstance(frozen, str) else frozen),
                                *("^" + re.escape(one.prefix) for one in models)]}


def given(models: Sequence[FrozenModel]) -> dict[str, np.ndarray]:
  """All `params` of models that are not the start."""
  return {name: a for one in models for name, a in one.params().items()}


def in_place(state: TrainState, models: Sequence[FrozenModel]) -> TrainState:
  """The state with copies of their weights in place (a step that donates the state must not take them along), laid out
  as the state's own arrays are, over the devices of all processes."""
  place = lambda name, a: jax.make_array_from_callback(a.shape, state.frozen[name].sharding, lambda part: a[part])
  return state.replace(frozen=state.frozen | {name: place(name, a) for name, a in given(models).items()})
