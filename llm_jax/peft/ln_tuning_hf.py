"""LayerNorm tuning's adapter folders: the tuned norms whole, as `ln_tuning_layers` of their modules."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from llm_jax.core.errors import CheckpointError
from llm_jax.core.names import select
from llm_jax.peft import ln_tuning
from llm_jax.peft.adapted import Arrays, Method
from llm_jax.peft.base_names import PREFIX, Base, Tensors, check_config
from llm_jax.peft.folder_tensors import exactly_train

PEFT_TYPES = ("LN_TUNING",)
METHODS = ("ln_tuning",)
PART = ".ln_tuning_layers."


def read(config: Mapping[str, Any], tensors: Tensors, base: Base) -> tuple[Method, dict[str, jax.Array]]:
  """The method of a folder and our arrays.

  Raises:
    ConfigError: a setting that is not supported. CheckpointError: tensors that are not the base's.
  """
  check_config(config)
  bare = {name.removeprefix(PREFIX).replace(PART, "."): tensor for name, tensor in tensors.items()}
  targets = exactly_train(base, bare)
  if targets is None:
    raise CheckpointError(f"the adapter holds no tensor of the base model: {', '.join(list(tensors)[:3])}")
  return ln_tuning.build(targets=targets), base.replaced(bare)


def write(method: Method, base: Base, params: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """adapter_config.json's keys and the tensors of the modules that are trained."""
  modules = base.modules_of(select(base.model.shapes, method.knobs["targets"], "config.peft.targets"), params)
  leaf = lambda name: PREFIX + PART.join(name.rsplit(".", 1))
  tensors = {leaf(name): array for found in modules.values() for name, array in found.items()}
  return dict(peft_type="LN_TUNING", target_modules=base.endings(modules)), tensors
