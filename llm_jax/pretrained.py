"""Trained models from a run's workdir or a Hugging Face folder, told apart by what lies in it."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from absl import logging

from llm_jax.core import plugins
from llm_jax.core.errors import CheckpointError, ConfigError, DataError
from llm_jax.core.hugging_face import read_config
from llm_jax.core.model import EXTRA, Model
from llm_jax.core.names import difference
from llm_jax.data import tokenizers
from llm_jax.training.good_steps import local_path, newest_good
from llm_jax.training.weights import load_params
from llm_jax.training.workdir import saved_config

LABELS = "classifier."  # how the names of a head over labels begin
HEADS = ("head.", LABELS)  # those of all that reads the last hidden states
Trained = tuple[Model, dict[str, Any], Any]  # model, params, tokenizer


def is_workdir(path: pathlib.Path) -> bool:
  """Does this folder hold a run?"""
  return (path / "checkpoints").is_dir()


def run_folder(given: str, key: str = "--workdir") -> pathlib.Path:
  """The folder of a run.

  Raises:
    ConfigError: there is none, or it holds no run. DataError: its config.json is damaged, and there are no checkpoints.
  """
  folder = pathlib.Path(given)
  if not folder.is_dir():
    raise ConfigError(key, f"no such folder {given!r}", accepted="the workdir of a run")
  if not is_workdir(folder) and saved_config(folder, key) is None:
    raise ConfigError(key, f"{given!r} holds no run", accepted="a folder with config.json and checkpoints/")
  return folder


def check_source(source: str, key: str = "--init_from") -> None:
  """Whether there is something to start from, without reading the weights.

  Raises:
    ConfigError: no such folder, or it holds neither a run nor a model. CheckpointError: no good checkpoint, or no
      readable weights.
  """
  path, accepted = pathlib.Path(source), "the workdir of a run, or a Hugging Face folder"
  if not path.is_dir():
    raise ConfigError(key, f"no such folder {source!r}", accepted=accepted)
  if is_workdir(path):
    if newest_good(local_path(path / "checkpoints"), "size", set_aside=False) is None:
      raise CheckpointError(f"{path / 'checkpoints'}: no checkpoint there")
  elif (path / "config.json").is_file():
    from llm_jax.hub.safetensors_files import Weights

    read_config(path / "config.json")
    Weights(path)
  else:
    raise ConfigError(key, f"{source!r} holds neither checkpoints/ nor config.json", accepted=accepted)


def initial(source: str, model: Model, key: str = "--init_from") -> dict[str, Any]:
  """The parameters of `source` for `model`; a head that only one of the two has is left out, and so starts afresh.

  Raises:
    ConfigError: no such folder, or it holds neither a run nor a model. CheckpointError: its names or shapes are not
      the model's.
  """
  check_source(source, key)
  path = pathlib.Path(source)
  if is_workdir(path):
    found = load_params(path / "checkpoints", frozen=True)
    params: Mapping[str, jax.Array] = own({**found.params, **found.frozen})
  else:
    from llm_jax import hub

    params = hub.load(path)[1]
  params, new = without_other_head(params, model)
  check_fits({**params, **{n: model.shapes[n] for n in new}}, model, source)
  return dict(params)


def without_other_head(params: Mapping[str, Any], model: Model) -> tuple[dict[str, Any], list[str]]:
  """(the params without those of a head that the model does not have, the names of the model's own head that they
  lack): a language model as the start of a classifier or reward model, and back. Two heads over the vocabulary (one
  tied, one not) are no such pair: nothing is left out then."""
  new = sorted(n for n in model.shapes.keys() - params.keys() if n.startswith(HEADS))
  old = sorted(n for n in params.keys() - model.shapes.keys() if n.startswith(HEADS))
  if not any(n.startswith(LABELS) for n in (*new, *old)):
    return dict(params), []
  logging.warning("another head: %s starts afresh, %s is left out", ", ".join(new) or "nothing",
                  ", ".join(old) or "nothing")
  return {n: p for n, p in params.items() if n not in old}, new


def own(params: Mapping[str, Any]) -> dict[str, Any]:
  """The network's own arrays, without what a learner or a reference model of a curriculum added to the state."""
  return {n: p for n, p in params.items() if not n.startswith(EXTRA)}


def check_fits(params: Mapping[str, Any], model: Model, source: str) -> None:
  """Raises CheckpointError if names or shapes are not the model's."""
  if params.keys() != model.shapes.keys():
    raise CheckpointError(f"{source} is not of this model: {difference(params, model.shapes)}")
  wrong = [n for n, s in model.shapes.items() if tuple(params[n].shape) != s.shape]
  if wrong:
    n = wrong[0]
    raise CheckpointError(f"{source} is not of this model: {n} has shape {tuple(params[n].shape)}, the model's has "
                          f"{model.shapes[n].shape} ({len(wrong)} such)")


def from_workdir(workdir: pathlib.Path, *, step: int | None = None, ema: bool = False, key: str = "--workdir",
                 merged: bool = True) -> Trained:
  """The model of a run with the weights of a checkpoint, and its tokenizer; the run's data is not needed.

  What a PEFT method trained is merged into the base; where it cannot be, or not `merged`, the model is the adapted one.

  Args:
    workdir: the run's folder. step: None takes the newest good checkpoint. ema: the averaged weights.
    key: the flag that named the folder, for errors.
    merged: False keeps an adapter apart.

  Raises:
    ConfigError: the folder holds no run. DataError: its config.json is damaged. CheckpointError: no usable checkpoint.
  """
  config = saved_config(workdir, key)
  if config is None or not is_workdir(workdir):
    raise ConfigError(key, f"{str(workdir)!r} holds no run", accepted="a folder with config.json and checkpoints/")
  tokenizer = tokenizers.load(workdir / "tokenizer")
  model = plugins.bind("models", config["model"], "config.model")(tokenizer.vocab_size, _length(config, workdir))
  found = load_params(workdir / "checkpoints", step=step, ema=ema, frozen=True)
  params = own({**found.params, **found.frozen})
  if config.get("peft") is not None:
    method = plugins.bind("peft", config["peft"], "config.peft")()
    if method.merge is None or not merged:
      model = method.adapt(model)
    else:
      params = method.merge(params)
  check_fits(params, model, str(workdir))
  return model, params, tokenizer


def _length(config: Mapping[str, Any], workdir: pathlib.Path) -> int:
  train = config.get("train")
  length = train.get("length") if isinstance(train, Mapping) else None
  if not isinstance(length, int):
    raise DataError(f"{workdir / 'config.json'}: not the config of a run, which has a number train.length")
  return length


def from_hub(folder: pathlib.Path, key: str = "--hf") -> Trained:
  """The model of a Hugging Face folder.

  Raises:
    ConfigError: no such folder, or it holds no tokenizer.
  """
  from llm_jax import hub

  if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
    raise ConfigError(key, f"{str(folder)!r} holds no model", accepted="a folder with config.json and *.safetensors")
  model, params, tokenizer = hub.load(folder)
  if tokenizer is None:
    raise ConfigError(key, f"{str(folder)!r} holds no tokenizer", accepted="a folder with tokenizer.json")
  return model, dict(params), tokenizer
