"""A base model by the names that Hugging Face's `peft` gives its modules, which an adapter folder speaks in.

A folder's tensors are named `base_model.model.<module>.<leaf>`, one per layer, and a fused module (GPT-2's c_attn) is
one for them where ours are three. What is said here holds for every method: which of our linear maps a module is, which
of our arrays a whole saved module replaces, and how a list of modules is written short.
"""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core.errors import CheckpointError, ConfigError
from llm_jax.core.model import Model
from llm_jax.core.tensor_table import Tensor
from llm_jax.peft.adapted import Arrays, axes_of_linears

PREFIX = "base_model.model."
FILE = "adapter_config.json"
Tensors = Mapping[str, Any]
Place = tuple[tuple[str, ...], Tensor, tuple[int, ...]]  # our names, the row, the index into our stacked axes
# Keys of an adapter_config.json that change no number of the loaded model.
DESCRIPTIVE = frozenset("""
auto_mapping base_model_name_or_path eva_config corda_config ensure_weight_tying exclude_modules inference_mode
init_weights kasa_config layers_pattern layers_to_transform loftq_config lora_dropout lora_ga_config megatron_core
modules_to_save monteclora_config peft_type peft_version qalora_group_size revision target_modules task_type
runtime_config fan_in_fan_out
""".split())  # noqa: SIM905


@dataclasses.dataclass(frozen=True)
class Slot:
  """One of their linear modules: our maps in its order, the index into their stacked axes, the axes of one layer.

  conv1d: their weight is (in, out), as GPT-2's."""

  stems: tuple[str, ...]
  index: tuple[int, ...]
  ins: tuple[int, ...]
  outs: tuple[tuple[int, ...], ...]
  conv1d: bool

  @property
  def rows(self) -> int:
    """Number of inputs."""
    return math.prod(self.ins)

  @property
  def columns(self) -> tuple[int, ...]:
    """Number of outputs of each of ours."""
    return tuple(math.prod(o) for o in self.outs)

  def cut(self, last: Any) -> list[Any]:
    """(..., all outputs) -> (..., *out) of each of ours."""
    edges = np.cumsum((0, *self.columns))
    return [last[..., a:b].reshape(*last.shape[:-1], *out) for a, b, out in zip(edges, edges[1:], self.outs)]


@dataclasses.dataclass(frozen=True)
class Base:
  """A base model with its parameters; tensors: {their name: where it lies in ours}."""

  model: Model
  params: Arrays
  tensors: Mapping[str, Place]

  @functools.cached_property
  def slots(self) -> dict[str, Slot]:
    """{their linear module: its slot}, of those whose outputs are ours one after the other."""
    axes, turned, found = axes_of_linears(self.model), {}, {}
    for name, (ours, row, index) in self.tensors.items():
      stems = tuple(o.removesuffix(".kernel") for o in ours)
      if name.endswith(".weight") and all(o.endswith(".kernel") for o in ours) and all(s in axes for s in stems):
        if id(row) not in turned:
          turned[id(row)] = _is_conv1d(row, [axes[s] for s in stems])
        conv1d = turned[id(row)]
        if conv1d is not None:
          found[name.removesuffix(".weight")] = Slot(stems, index, axes[stems[0]][0], tuple(axes[s][1] for s in stems),
                                                     conv1d)
    return found

  def slot(self, module: str) -> Slot:
    """Raises:
      CheckpointError: no linear map of the base has this name."""
    if module not in self.slots:
      raise CheckpointError(f"the adapter changes {module!r}, which is no linear module of the base model; its modules "
                            f"are such as {', '.join(list(self.slots)[:3])}")
    return self.slots[module]

  def lead(self, stem: str) -> tuple[int, ...]:
    """The stacked axes of our map's arrays."""
    ins, outs = next((s.ins, s.outs[s.stems.index(stem)]) for s in self.slots.values() if stem in s.stems)
    shape = self.model.shapes[f"{stem}.kernel"].shape
    return shape[: len(shape) - len(ins) - len(outs)]

  def check_every_layer(self, modules: Iterable[str]) -> None:
    """Raises:
      CheckpointError: the modules are only some layers of a stack.
    """
    found = {(stem, self.slot(m).index) for m in modules for stem in self.slot(m).stems}
    for stem, _ in found:
      for index in np.ndindex(*self.lead(stem)):
        if (stem, index) not in found:
          raise CheckpointError(f"the adapter changes only some layers of {stem}, not {index}")

  def replaced(self, tensors: Tensors) -> dict[str, jax.Array]:
    """Our arrays with these of their tensors, by bare names, in place.

    Raises:
      CheckpointError: a name or a shape that the base does not have.
    """
    arrays: dict[str, jax.Array] = {}
    for name, tensor in tensors.items():
      if name not in self.tensors:
        raise CheckpointError(f"the adapter holds {name!r}, which the base model does not have")
      ours, row, index = self.tensors[name]
      shapes = [self.model.shapes[o].shape[len(index):] for o in ours]
      try:
        parts = row.load(tensor, shapes)
      except ValueError:
        raise CheckpointError(f"adapter tensor {name} has shape {tensor.shape}, which does not fit") from None
      for o, part in zip(ours, parts):
        arrays[o] = placed(arrays.get(o, self.params[o]), index, part)
    return arrays

  def modules_of(self, ours: Iterable[str], params: Arrays) -> dict[str, dict[str, np.ndarray]]:
    """{their module: its tensors by bare name}, of every module that holds one of these arrays of ours."""
    ours = set(ours)
    modules = {n.rpartition(".")[0] for n, (names, _, _) in self.tensors.items() if ours & set(names)}
    found: dict[str, dict[str, np.ndarray]] = {m: {} for m in sorted(modules)}
    for name, (names, row, index) in self.tensors.items():
      if name.rpartition(".")[0] in modules:
        array = row.save(tuple(np.asarray(params[o][index], np.float32) for o in names))
        found[name.rpartition(".")[0]][name] = array
    return found

  def endings(self, modules: Iterable[str]) -> list[str]:
    """The shortest endings of names that take these modules and no other of the base."""
    taken, every = set(modules), {n.rpartition(".")[0] for n in self.tensors}
    found = set()
    for module in taken:
      parts = module.split(".")
      tails = (".".join(parts[i:]) for i in reversed(range(len(parts))))
      found.add(next(t for t in tails if {m for m in every if m == t or m.endswith(f".{t}")} <= taken))
    return sorted(found)


def placed(start: Any, index: tuple, part: Any) -> Any:
  """`start` with start[index] = part; of numpy arrays where the part is one, so that nothing is compiled to read."""
  if isinstance(part, np.ndarray):
    array = np.array(start, np.float32)
    array[index] = part
    return array
  return jnp.asarray(start, jnp.float32).at[index].set(part)


def _is_conv1d(row: Tensor, axes: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> bool | None:
  """Is their weight (in, out)? None if the outputs of ours are not one after the other: seen on axes of size 2."""
  two = lambda sizes: (2,) * len(sizes)
  shapes = [two(ins) + two(outs) for ins, outs in axes]
  rows, widths = math.prod(two(axes[0][0])), [math.prod(two(outs)) for _, outs in axes]
  x_IO = np.arange(rows * sum(widths)).reshape(rows, -1)
  parts = np.split(x_IO, np.cumsum(widths)[:-1], axis=1)
  for theirs, conv1d in ((x_IO.T, False), (x_IO, True)):
    try:
      loaded = row.load(theirs, shapes)
    except ValueError:
      continue
    if all(np.array_equal(a.reshape(rows, -1), b) for a, b in zip(loaded, parts)):
      return conv1d
  return None


def check_config(config: Mapping[str, Any], *read: str) -> None:
  """Refuses a key that is neither read nor known to change nothing, and is set.

  Raises:
    ConfigError: naming the key.
  """
  for key in sorted(set(config) - DESCRIPTIVE - set(read)):
    if config[key] not in (None, False, {}, [], "none", ""):
      raise ConfigError(f"{FILE}: {key}", f"{json.dumps(config[key])} is not supported", accepted="null")


def exactly(names: Iterable[str]) -> str:
  """The regular expression of these names."""
  return rf"^({'|'.join(map(re.escape, sorted(names)))})$"
