"""Only the weights of a checkpoint: for another run that starts from them, for evaluation and for generation.

The optimizer's arrays are not read, nothing is renamed or deleted, and the run that writes the checkpoints may go on
while this reads.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from llm_jax.core.errors import CheckpointError
from llm_jax.core.types import Params
from llm_jax.training import seal, stored_arrays
from llm_jax.training.good_steps import local_path, newest_good, read_extra, verified_manifest


class Weights(NamedTuple):
  """What `load_params` returns: the step it took, the arrays, the frozen arrays if asked for, and the run's extra."""

  step: int
  params: Params
  frozen: Params
  extra: dict[str, Any]


def load_params(directory: str | pathlib.Path, *, step: int | None = None, ema: bool = False, frozen: bool = False,
                expected: Mapping[str, jax.ShapeDtypeStruct] | None = None, verify: seal.Verify = "auto") -> Weights:
  """Only the weights of a checkpoint, without optimizer state; changes nothing in `directory`.

  Args:
    directory: DIR/checkpoints of a run, which may still be running.
    step: None takes the newest good one.
    ema: the averaged weights instead of the trained ones.
    frozen: also the arrays that were not trained (the base of a LoRA).
    expected: {name: shape, dtype, sharding} of the params; None takes them as saved, on one device.
    verify: see seal.verify.

  Raises:
    CheckpointError: no such step, none that is good, no average in it, or names and shapes other than `expected`.
  """
  directory = local_path(directory)
  for attempt in range(3):
    chosen = newest_good(directory, verify, set_aside=False) if step is None else step
    if chosen is None:
      raise CheckpointError(f"{directory}: no checkpoint there")
    path = directory / str(chosen)
    try:
      return _load_params(path, chosen, "ema" if ema else "params", frozen, expected, verify)
    except CheckpointError:
      if path.is_dir() or step is not None or attempt == 2:
        raise  # otherwise the run that writes here has deleted this step meanwhile, and has a newer one
  raise AssertionError("unreachable")


def _load_params(path: pathlib.Path, step: int, part: str, frozen: bool,
                 expected: Mapping[str, jax.ShapeDtypeStruct] | None, verify: seal.Verify) -> Weights:
  manifest = verified_manifest(path, verify)
  saved = {n: _abstract(t) for n, t in manifest["arrays"].items() if not t["dtype"].startswith("key<")}
  of = lambda prefix: {n.removeprefix(prefix + "."): a for n, a in saved.items() if n.startswith(prefix + ".")}
  found = of(part)
  if not found:
    raise CheckpointError(f"checkpoint {step} holds no {part} arrays" +
                          (": its run kept no average of the weights" if part == "ema" else ""))
  wrong = expected is not None and stored_arrays.mismatch(
      stored_arrays.table_of(found), stored_arrays.table_of(expected), dtypes=False)
  if wrong:
    raise CheckpointError(f"checkpoint {step} in {path.parent} is not of this model: {wrong}")
  wanted = {f"{part}.{n}": a for n, a in (found if expected is None else expected).items()}
  wanted |= {f"frozen.{n}": a for n, a in of("frozen").items()} if frozen else {}
  arrays = stored_arrays.read(path / stored_arrays.FOLDER, wanted)
  pick = lambda prefix: {n.removeprefix(prefix + "."): a for n, a in arrays.items() if n.startswith(prefix + ".")}
  return Weights(step, pick(part), pick("frozen"), read_extra(path))


def _abstract(entry: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(tuple(entry["shape"]), jax.numpy.dtype(entry["dtype"]))
