"""(IA)^3's adapter folders: one `ia3_l` per module, (out, 1), or (1, in) for a feed-forward module."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from llm_jax.core.errors import CheckpointError, ConfigError
from llm_jax.peft import ia3
from llm_jax.peft.adapted import Arrays, Method
from llm_jax.peft.base_names import PREFIX, Base, Tensors, check_config, exactly
from llm_jax.peft.folder_tensors import by_module, exactly_train, put, saved_modules

PEFT_TYPES = ("IA3",)
METHODS = ("ia3",)
LEAF = ".ia3_l"
SIDES = ("ia3_out", "ia3_in")


def read(config: Mapping[str, Any], tensors: Tensors, base: Base) -> tuple[Method, dict[str, jax.Array]]:
  """The method of a folder and our arrays.

  Raises:
    ConfigError: a setting that is not supported. CheckpointError: tensors that do not fit the base, or factors for
      some layers of a stack only.
  """
  check_config(config, "feedforward_modules", "init_ia3_weights")
  modules, others = by_module(tensors, (LEAF,))
  feed_forward = config.get("feedforward_modules") or []
  stems: dict[str, set[str]] = {side: set() for side in SIDES}
  places = []
  for module, leaves in modules.items():
    slot, factor = base.slot(module), leaves[LEAF].astype(np.float32)
    contracted = _taken(module, feed_forward)
    wanted = (1, slot.rows) if contracted else (sum(slot.columns), 1)
    if factor.shape != wanted:
      raise CheckpointError(f"adapter of {module}: shape {factor.shape}, expected {wanted}")
    parts = [factor.reshape(slot.ins)] * len(slot.stems) if contracted else slot.cut(factor[:, 0])
    stems[SIDES[contracted]] |= set(slot.stems)
    places += [(f"{stem}.{SIDES[contracted]}", slot.index, part) for stem, part in zip(slot.stems, parts)]
  targets, contracted_maps = (exactly(stems[side]) if stems[side] else None for side in SIDES)
  method = ia3.build(targets=targets, contracted=contracted_maps, train=exactly_train(base, others))
  adapted = method.adapt(base.model)
  arrays: dict[str, jax.Array] = {}
  for name, index, part in places:
    put(arrays, adapted, name, index, part.reshape(adapted.shapes[name].shape[len(index):]))
  base.check_every_layer(modules)
  return method, arrays | base.replaced(others)


def _taken(module: str, endings: Any) -> bool:
  """Does peft count this module among the feed-forward ones?"""
  if isinstance(endings, str):
    return re.fullmatch(endings, module) is not None
  return any(module == e or module.endswith(e) for e in endings)


def write(method: Method, base: Base, params: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """adapter_config.json's keys and the tensors of a model that `method` made of the base.

  Raises:
    ConfigError: maps that are one module there have different factors for its inputs.
  """
  tensors: dict[str, np.ndarray] = {}
  modules: dict[str, list[str]] = {side: [] for side in SIDES}
  for module, slot in base.slots.items():
    held = {side: [params.get(f"{stem}.{side}") for stem in slot.stems] for side in SIDES}
    if any(a is not None for a in held["ia3_in"]):
      rows = [np.ones(slot.rows) if a is None else np.asarray(a[slot.index]).reshape(-1) for a in held["ia3_in"]]
      if any(not np.array_equal(rows[0], r) for r in rows) or any(a is not None for a in held["ia3_out"]):
        raise ConfigError("config.peft.contracted", f"{module} is one module in Hugging Face's model, and its parts "
                          "have factors of their own", accepted="the merged model in a folder of its own")
      tensors[f"{PREFIX}{module}{LEAF}"] = np.asarray(rows[0], np.float32)[None]
      modules["ia3_in"].append(module)
    elif any(a is not None for a in held["ia3_out"]):
      parts = [np.ones(n) if a is None else np.asarray(a[slot.index]).reshape(-1)
               for a, n in zip(held["ia3_out"], slot.columns)]
      tensors[f"{PREFIX}{module}{LEAF}"] = np.concatenate(parts).astype(np.float32)[:, None]
      modules["ia3_out"].append(module)
  every = modules["ia3_in"] + modules["ia3_out"]
  saved = saved_modules(method, base, params, set(every))
  tensors |= {PREFIX + name: array for found in saved.values() for name, array in found.items()}
  contracted = base.endings(modules["ia3_in"])  # which peft wants among the targets by the same words
  return dict(peft_type="IA3", target_modules=sorted({*base.endings(modules["ia3_out"]), *contracted}),
              feedforward_modules=contracted, modules_to_save=list(saved) or None,
              fan_in_fan_out=any(base.slots[m].conv1d for m in every)), tensors
