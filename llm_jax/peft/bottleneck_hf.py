"""Adapter folders of bottleneck adapters: `<module>.adapter.adapter_down` and `adapter_up`, each a weight and a bias.

<module> holds the linear map whose output the adapter follows, as BERT's `attention.output` and `output` do. Hugging
Face's `peft` has no such method; adapter_config.json says `kind`, `bottleneck_size` and `non_linearity`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from llm_jax.core.errors import CheckpointError, ConfigError
from llm_jax.peft import bottleneck
from llm_jax.peft.adapted import Arrays, Method
from llm_jax.peft.base_names import FILE, Base, Tensors, check_config, exactly
from llm_jax.peft.folder_tensors import put

PEFT_TYPES = ("houlsby", "pfeiffer")  # what `kind` says
METHODS = ("bottleneck",)
PARTS = ("down", "up")
Found = dict[str, tuple[str, tuple[int, ...]]]  # {their module: the beginning of our arrays' names, layer}


def read(config: Mapping[str, Any], tensors: Tensors, base: Base) -> tuple[Method, dict[str, jax.Array]]:
  """The method of a folder and our arrays.

  Raises:
    ConfigError: a setting that is not supported. CheckpointError: tensors that do not fit the base.
  """
  check_config(config, "kind", "bottleneck_size", "non_linearity")
  size = config.get("bottleneck_size")
  if not isinstance(size, int):
    raise ConfigError(f"{FILE}: bottleneck_size", f"got {size!r}", accepted="a whole number from 1")
  make = lambda targets: bottleneck.build(kind=config["kind"], size=size, act=config.get("non_linearity", "relu"),
                                          targets=targets)
  found = {module: place for module, place in _places(make(".").adapt(base.model).shapes, base).items()
           if any(name.startswith(f"{module}.adapter.") for name in tensors)}
  if not found:
    raise CheckpointError("the adapter holds no tensor of a bottleneck adapter of this base")
  method = make(exactly({stem for stem, _ in found.values()}))
  adapted = method.adapt(base.model)
  shapes = adapted.shapes
  wanted = {f"{module}.adapter.adapter_{part}.{leaf}": (f"{stem}.adapter.{part}.{ours}", index)
            for module, (stem, index) in _places(shapes, base).items()
            for part in PARTS for leaf, ours in (("weight", "kernel"), ("bias", "bias"))}
  if wrong := wanted.keys() ^ tensors.keys():
    raise CheckpointError(f"the adapter's tensors are not those of {config['kind']!r} in this base, such as "
                          f"{min(wrong)!r}")
  arrays: dict[str, jax.Array] = {}
  for name, (ours, index) in wanted.items():
    tensor = tensors[name].T
    if tensor.shape != shapes[ours].shape[len(index):]:
      raise CheckpointError(f"adapter tensor {name} has shape {tensors[name].shape}, which does not fit")
    put(arrays, adapted, ours, index, tensor)
  return method, arrays


def write(method: Method, base: Base, params: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """adapter_config.json's keys and the tensors.

  Raises:
    ConfigError: parameters beside the adapters are trained, which such a folder cannot hold.
  """
  knobs = method.knobs
  if knobs["train"] is not None:
    raise ConfigError("config.peft.train", "a folder of bottleneck adapters holds nothing but them", accepted="None")
  tensors = {}
  for module, (stem, index) in _places(params, base).items():
    for part in PARTS:
      for leaf, ours in (("weight", "kernel"), ("bias", "bias")):
        array = np.asarray(params[f"{stem}.adapter.{part}.{ours}"][index], np.float32)
        tensors[f"{module}.adapter.adapter_{part}.{leaf}"] = array.T
  return dict(kind=knobs["kind"], bottleneck_size=knobs["size"], non_linearity=knobs["act"]), tensors


def _places(names: Mapping[str, Any], base: Base) -> Found:
  """Where these names of arrays have an adapter."""
  found: Found = {}
  for module, slot in base.slots.items():
    stem = slot.stems[0]
    for place in (stem, f"{stem.removesuffix('.down')}_norm"):
      if f"{place}.adapter.down.kernel" in names:
        found[module.rpartition(".")[0]] = place, slot.index
  return found
