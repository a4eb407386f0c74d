"""The tensors of an adapter folder on their way in and out, whatever the method: sorted by module, put into our arrays,
and the whole modules that a folder holds beside its adapters.
"""

from typing import Any

import numpy as np

from llm_jax.core.errors import CheckpointError, ConfigError
from llm_jax.core.names import select
from llm_jax.peft.adapted import Arrays, Method
from llm_jax.peft.base_names import PREFIX, Base, Tensors, exactly, placed


def by_module(tensors: Tensors, leaves: tuple[str, ...]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
  """({module: {leaf: tensor}}, the others by bare name).

  Raises:
    CheckpointError: a module lacks one of its leaves, or there is none at all.
  """
  modules: dict[str, dict[str, Any]] = {}
  others = {}
  for name, tensor in tensors.items():
    bare = name.removeprefix(PREFIX)
    leaf = next((leaf for leaf in leaves if bare.endswith(leaf)), None)
    if leaf is None:
      others[bare] = tensor
    else:
      modules.setdefault(bare.removesuffix(leaf), {})[leaf] = tensor
  for module, found in modules.items():
    if len(found) != len(leaves):
      raise CheckpointError(f"the adapter holds {module}{next(iter(found))} without {set(leaves) - set(found)}")
  if not modules:
    raise CheckpointError(f"the adapter holds no tensor that ends in {leaves[0]}")
  return modules, others


def exactly_train(base: Base, others: Tensors) -> str | None:
  """The pattern of our arrays that saved modules replace."""
  names = {ours for name in others if name in base.tensors for ours in base.tensors[name][0]}
  return exactly(names) if names else None


def put(arrays: dict[str, Any], adapted: Any, name: str, index: tuple, part: Any) -> None:
  """arrays[name][index] = part; zeros where nothing was put yet."""
  if name not in arrays:
    arrays[name] = np.zeros(adapted.shapes[name].shape, np.float32)
  arrays[name] = placed(arrays[name], index, part)


def saved_modules(method: Method, base: Base, params: Arrays, adapted: set[str]) -> dict[str, dict[str, np.ndarray]]:
  """{module: its tensors by bare name} of the further parameters that are trained.

  Raises:
    ConfigError: one of them belongs to an adapted module, which peft cannot say.
  """
  train = method.knobs.get("train")
  if train is None:
    return {}
  saved = base.modules_of(select(base.model.shapes, train, "config.peft.train"), params)
  if both := adapted & saved.keys():
    raise ConfigError("config.peft.train", f"takes parameters of {min(both)}, which has an adapter too",
                      accepted="modules without one, or the merged model in a folder of its own")
  return saved
