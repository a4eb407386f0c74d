"""Their tensors to our parameters and back, by a family's table: stacks layers, cuts fused ones, checks every name."""

import itertools
import re
import string
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from llm_jax.core.errors import CheckpointError
from llm_jax.core.hugging_face import Family
from llm_jax.core.names import difference
from llm_jax.core.tensor_table import Names, Tensor

Place = tuple[tuple[str, ...], Tensor, tuple[int, ...]]  # our names, the row, the index into our stacked axes
OLD_NAMES = (("gamma", "weight"), ("beta", "bias"))  # LayerNorm's, in files of the first releases


def places(names: Names, shapes: Mapping[str, Any]) -> dict[str, Place]:
  """{their name: where it goes}, for the rows whose parameters the model has, one entry per layer.

  Raises:
    ValueError: a parameter has no row, or a row's parameters are there only in part: the table is wrong.
  """
  found: dict[str, Place] = {}
  covered: set[str] = set()
  for key, tensor in names.items():
    ours = (key,) if isinstance(key, str) else key
    have = [o for o in ours if o in shapes]
    if not have:
      continue
    if len(have) < len(ours):
      raise ValueError(f"the row of {tensor.name} wants {ours}, the model has only {have}")
    fields = [field for _, field, _, _ in string.Formatter().parse(tensor.name) if field]
    for index in itertools.product(*map(range, shapes[ours[0]].shape[:len(fields)])):
      numbers = index if tensor.layers is None else (tensor.layers[index[0]], *index[1:])
      found[tensor.name.format(**dict(zip(fields, numbers)))] = (ours, tensor, index)
    covered |= set(ours)
  if covered != set(shapes):
    raise ValueError(f"no row for {sorted(set(shapes) - covered)}")
  return found


def rename(name: str, known: Callable[[str], bool], family: Family, prefix: str) -> str:
  """`name` as the table has it: another prefix of the backbone, or none, and LayerNorm's old gamma and beta."""
  for spelled in _spellings(name):
    if known(spelled):
      return spelled
    bare = next((spelled.removeprefix(p) for p in family.prefixes if spelled.startswith(p)), spelled)
    for candidate in (prefix + bare, bare, *(p + bare for p in family.prefixes)):
      if known(candidate):
        return candidate
  return name


def _spellings(name: str) -> Iterator[str]:
  yield name
  for old, new in OLD_NAMES:
    if name.endswith(f".{old}"):
      yield name.removesuffix(old) + new


def match(weights: Mapping[str, Any], wanted: Mapping[str, Place], family: Family, tied: Mapping[str, str],
          prefix: str) -> tuple[dict[str, str], list[str]]:
  """({wanted name: name in the file}, names in the file that nothing wants); ignored buffers and tied copies drop out.

  Raises:
    CheckpointError: two tensors of the file go to the same place.
  """
  known = lambda name: name in wanted or name in tied
  found: dict[str, str] = {}
  unexpected = []
  for name in weights:
    target = rename(name, known, family, prefix)
    if not known(target):
      if not any(re.search(pattern, name) for pattern in family.ignored):
        unexpected.append(name)
      continue
    if target in found:
      raise CheckpointError(f"tensors {found[target]} and {name} are both {target}")
    found[target] = name
  return found, unexpected


def to_params(weights: Mapping[str, np.ndarray], found: Mapping[str, str], wanted: Mapping[str, Place],
              shapes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Our parameters in float32, stacked.

  Raises:
    CheckpointError: a tensor's shape does not fit; names it, with both shapes.
  """
  params: dict[str, np.ndarray] = {}
  for target, (ours, tensor, index) in wanted.items():
    if target not in found:
      continue
    array = np.asarray(weights[found[target]], np.float32)
    per_layer = [shapes[o].shape[len(index):] for o in ours]
    try:
      parts = tensor.load(array, per_layer)
      fits = [p.shape for p in parts] == per_layer
    except ValueError:
      fits = False
    if not fits:
      raise CheckpointError(f"tensor {found[target]} has shape {array.shape}, which does not fit "
                            f"{', '.join(f'{o} {s}' for o, s in zip(ours, per_layer))}")
    for o, part in zip(ours, parts):
      if o not in params:
        params[o] = np.empty(shapes[o].shape, np.float32)
      params[o][index] = part
  return params


def to_tensor(name: str, params: Mapping[str, Any], wanted: Mapping[str, Place]) -> np.ndarray:
  """Their tensor of that name, float32, from our parameters."""
  ours, tensor, index = wanted[name]
  return tensor.save(tuple(np.asarray(params[o][index], np.float32) for o in ours))


def complain(missing: set[str], unexpected: list[str], folder: Any) -> None:
  """Raises:
    CheckpointError: if there is anything to complain about; names the tensors.
  """
  if missing or unexpected:
    problem = difference(unexpected, missing)
    raise CheckpointError(f"{folder}: the tensors are not those of config.json's architecture: {problem}")
