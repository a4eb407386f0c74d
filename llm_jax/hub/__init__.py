"""Hugging Face folders in and out: `model, params, tokenizer = hub.load(folder)`, `hub.save(folder, model, params)`,
and adapters alone with `hub.save_adapter(folder, model, params)`.
"""

import os
from typing import Any

from llm_jax.core.model import Model
from llm_jax.core.types import Params
from llm_jax.hub import adapters, folder
from llm_jax.hub.adapters import save as save_adapter
from llm_jax.hub.folder import save
from llm_jax.hub.tokenizer import HubTokenizer, find_tokenizer

__all__ = ["find_tokenizer", "load", "save", "save_adapter"]


def load(path: str | os.PathLike, *, base: str | os.PathLike | None = None,
         **settings: Any) -> tuple[Model, Params, HubTokenizer | None]:
  """Model, parameters (float32) and tokenizer of a folder, of a whole model or of an adapter of `peft`.

  Args:
    path: config.json and model.safetensors, see folder.py; or adapter_config.json alone, see adapters.py.
    base: of an adapter: the folder of its base model, where it is not where the adapter says.
    settings: as in `folder.load`: dtype, head, labels, key, place, and fields of the architecture's config.

  Raises:
    ConfigError: something that is said there is not supported.
    CheckpointError: no safetensors, damaged files, or tensors that are not the architecture's; names them.
  """
  if adapters.is_adapter(path):
    return adapters.load(path, base, **settings)
  return folder.load(path, **settings)
