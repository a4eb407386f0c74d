"""Weights from elsewhere: a run's workdir or a Hugging Face folder, told apart by what lies in it."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from llm_jax.core.errors import CheckpointError, ConfigError
from llm_jax.core.model import Model
from llm_jax.core.names import difference
from llm_jax.training.weights import load_params


def is_workdir(path: pathlib.Path) -> bool:
  """Does this folder hold a run?"""
  return (path / "checkpoints").is_dir()


def initial(source: str, model: Model, key: str = "--init_from") -> dict[str, Any]:
  """The parameters of `source` for `model`.

  Raises:
    ConfigError: no such folder, or it holds neither a run nor a model. CheckpointError: its names or shapes are not
      the model's.
  """
  path = pathlib.Path(source)
  if not path.is_dir():
    raise ConfigError(key, f"no such folder {source!r}", accepted="the workdir of a run, or a Hugging Face folder")
  if is_workdir(path):
    found = load_params(path / "checkpoints", frozen=True)
    params: Mapping[str, jax.Array] = {**found.params, **found.frozen}
  elif (path / "config.json").is_file():
    from llm_jax import hub

    params = hub.load(path)[1]
  else:
    raise ConfigError(key, f"{source!r} holds neither checkpoints/ nor config.json",
                      accepted="the workdir of a run, or a Hugging Face folder")
  check_fits(params, model, source)
  return dict(params)


def check_fits(params: Mapping[str, Any], model: Model, source: str) -> None:
  """Raises CheckpointError if names or shapes are not the model's."""
  if params.keys() != model.shapes.keys():
    raise CheckpointError(f"{source} is not of this model: {difference(params, model.shapes)}")
  wrong = [n for n, s in model.shapes.items() if tuple(params[n].shape) != s.shape]
  if wrong:
    n = wrong[0]
    raise CheckpointError(f"{source} is not of this model: {n} has shape {tuple(params[n].shape)}, the model's has "
                          f"{model.shapes[n].shape} ({len(wrong)} such)")
