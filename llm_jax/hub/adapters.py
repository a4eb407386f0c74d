"""Adapter folders of Hugging Face's `peft`: adapter_config.json and adapter_model.safetensors beside a base model.

What a `peft_type` means is said by the peft/ file that lists it in PEFT_TYPES: `read(config, tensors, base)` gives the
method and our arrays, from numpy arrays or traced ones, and `write(method, base, params)` is the way back. This file
finds that file, reads and writes.
"""

import functools
import importlib
import json
import os
import pathlib
import re
import types
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from llm_jax.core.errors import CheckpointError, ConfigError, unknown_name
from llm_jax.core.hugging_face import family_of_config
from llm_jax.core.model import Model
from llm_jax.core.plugins import ROOT
from llm_jax.core.types import Params
from llm_jax.hub import folder as whole
from llm_jax.hub import safetensors_files, tensor_names
from llm_jax.peft.base_names import FILE, Base

TENSORS = "adapter_model.safetensors"
TASKS = {"ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM", "ForConditionalGeneration": "SEQ_2_SEQ_LM"}


def is_adapter(folder: str | os.PathLike) -> bool:
  """Does this folder hold an adapter and no model?"""
  folder = pathlib.Path(folder)
  return (folder / FILE).is_file() and not (folder / "config.json").is_file()


@functools.cache
def formats() -> tuple[types.ModuleType, ...]:
  """Every peft/ file that lists PEFT_TYPES; adding a file adds a format."""
  files = [p.stem for p in sorted((ROOT / "peft").glob("*_hf.py"))
           if re.search(r"^PEFT_TYPES\b.*=", p.read_text("utf-8"), re.MULTILINE)]
  return tuple(importlib.import_module(f"llm_jax.peft.{stem}") for stem in files)


def kind_of(folder: str | os.PathLike) -> tuple[str, dict[str, Any]]:
  """(its peft_type, or the kind of a bottleneck adapter, the whole adapter_config.json)."""
  config = safetensors_files.read_json(pathlib.Path(folder) / FILE)
  return str(config.get("peft_type", config.get("kind"))), config


def format_of(kind: str) -> types.ModuleType:
  """The file that reads this `peft_type`.

  Raises:
    ConfigError: none does; lists those that are read.
  """
  for module in formats():
    if kind in module.PEFT_TYPES:
      return module
  raise unknown_name(f"{FILE}: peft_type", kind, [t for m in formats() for t in m.PEFT_TYPES], what="adapter")


def load(folder: str | os.PathLike, base: str | os.PathLike | None = None,
         **settings: Any) -> tuple[Model, Params, Any]:
  """The adapted model, its parameters and the base's tokenizer.

  Args:
    folder: adapter_config.json and adapter_model.safetensors.
    base: folder of the base model; None takes the one that the adapter names, seen from its own folder.
    settings: of the base, as in `hub.load`.

  Raises:
    ConfigError: a type or setting that is not supported, or no base. CheckpointError: tensors that do not fit.
  """
  kind, config = kind_of(folder)
  module = format_of(kind)
  found, tokenizer = _base(pathlib.Path(folder), config, base, settings)
  method, arrays = module.read(config, read_tensors(folder), found)
  model = method.adapt(found.model)
  params = {**found.params, **{n: jnp.asarray(a) for n, a in arrays.items()}}
  model.bind(params)  # exactly the model's names
  return model, {n: params[n] for n in sorted(params)}, tokenizer


def read_tensors(folder: str | os.PathLike) -> dict[str, np.ndarray]:
  """The tensors of an adapter folder.

  Raises:
    CheckpointError: no such file, or a damaged one.
  """
  path = pathlib.Path(folder) / TENSORS
  try:
    return load_file(path)
  except (OSError, SafetensorError) as e:
    raise CheckpointError(f"{path}: not readable ({e}); only safetensors are read") from None


def _base(folder: pathlib.Path, config: dict[str, Any], base: str | os.PathLike | None,
          settings: dict[str, Any]) -> tuple[Base, Any]:
  named = config.get("base_model_name_or_path")
  path = pathlib.Path(base) if base is not None else folder / str(named)
  if not (path / "config.json").is_file():
    raise ConfigError(f"{folder / FILE}: base_model_name_or_path", f"{str(named)!r} leads to no model ({path})",
                      accepted="hub.load(folder, base=FOLDER) with the folder of the base model")
  model, params, tokenizer = whole.load(path, **settings)
  return base_of(model, params), tokenizer


def base_of(model: Model, params: Params) -> Base:
  """A model of Hugging Face's by the names of its class."""
  family = family_of_config(model.config)
  wanted, prefix = tensor_names.places(family.names(model.config), model.shapes), family.prefix(model.config)
  return Base(model, params, {whole.as_saved(name, prefix, family): place for name, place in wanted.items()})


def save(folder: str | os.PathLike, model: Model, params: Params, *, base: str = "") -> None:
  """Writes the adapter alone, as `peft` reads it.

  Args:
    folder: made if it is not there.
    model: one that a PEFT method made (`hub.load` of an adapter, or `method.adapt`). params: exactly the model's.
    base: what the adapter calls its base model: a folder seen from its own, or a name.

  Raises:
    ConfigError: the model has no adapter, or peft has no form for it.
  """
  if model.made_of is None:
    raise ConfigError("hub.save_adapter: model", "was made by no PEFT method", accepted="hub.save for a whole model")
  model.bind(params)  # exactly the model's names
  method, plain = model.made_of
  module = next((m for m in formats() if method.name in m.METHODS), None)
  if module is None:
    raise unknown_name("config.peft.name", method.name, [n for m in formats() for n in m.METHODS],
                       what="method with an adapter folder")
  config, tensors = module.write(method, base_of(plain, {n: params[n] for n in plain.shapes}), params)
  architecture = (family_of_config(plain.config).config_to_hf(plain.config).get("architectures") or [""])[0]
  task = next((task for ending, task in TASKS.items() if architecture.endswith(ending)), None)
  said = dict(base_model_name_or_path=base, task_type=task, inference_mode=True) | config
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  save_file({n: np.ascontiguousarray(a) for n, a in tensors.items()}, folder / TENSORS, metadata={"format": "pt"})
  (folder / FILE).write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", "utf-8")
