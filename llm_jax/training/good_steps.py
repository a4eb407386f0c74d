"""Which steps of a checkpoint directory can be trusted: the newest good one, the best one, what is wrong with others.

Read by the run that writes them and, at the same time, by others that only look (evaluation, generation): only the
writer renames what is damaged.
"""

import json
import logging
import pathlib
from typing import Any, Literal

import numpy as np

from llm_jax.core.errors import CheckpointError
from llm_jax.training import seal

EXTRA = "extra.json"

log = logging.getLogger(__name__)


def newest_good(directory: pathlib.Path, verify: seal.Verify = "auto", *, set_aside: bool) -> int | None:
  """The newest step that verifies, see Checkpoints.latest_good. set_aside: rename the damaged ones that it passes."""
  for leftover in seal.with_suffix(directory, seal.SAVING):
    log.info("checkpoint %s is not complete (being written, or the run was killed); ignored", leftover.name)
  damage: list[str] = []
  for step in reversed(seal.steps(directory)):
    problems = seal.verify(directory / str(step), verify)
    if not problems:
      for line in damage:
        log.warning("%s; using %d", line, step)
      return step
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    damage.append(f"checkpoint {step} is damaged: {problems[0]}{more}")
    if set_aside:
      try:
        seal.set_aside(directory / str(step))
      except OSError as e:
        log.warning("checkpoint %d could not be renamed: %s", step, e.strerror)
  damage += [f"{p.name} was set aside earlier" for p in seal.with_suffix(directory, seal.DAMAGED)][:3 - len(damage)]
  if damage:
    raise CheckpointError(f"no usable checkpoint in {directory}\n" + "".join(f"  {line}\n" for line in damage[:5]) +
                          "  nothing was deleted; to start afresh use a new --workdir or move that directory away")
  return None


def best_step(directory: pathlib.Path, metric: str, mode: Literal["min", "max"]) -> int | None:
  """The sealed step whose saved `metric` is best; the earliest of equals; None if no step has a finite one."""
  values: dict[int, float] = {}
  for step in seal.steps(directory):
    try:
      value = seal.read_manifest(directory / str(step))["metrics"].get(metric)
    except ValueError:
      continue  # damaged: newest_good is where that is said
    if value is not None and np.isfinite(value):
      values[step] = value if mode == "min" else -value
  return min(values, key=lambda s: (values[s], s)) if values else None


def local_path(directory: str | pathlib.Path) -> pathlib.Path:
  """`directory` as an absolute path.

  Raises:
    CheckpointError: it is a bucket address or a file: seals need a file system with atomic renames.
  """
  if "://" in str(directory):
    raise CheckpointError(f"{directory}: checkpoints need a file system; mount the bucket (gcsfuse) and give that path")
  path = pathlib.Path(directory).absolute()
  if path.exists() and not path.is_dir():
    raise CheckpointError(f"{path} is a file, not a directory of checkpoints")
  return path


def verified_manifest(path: pathlib.Path, verify: seal.Verify) -> dict[str, Any]:
  """The manifest of a step directory after checking what it promises.

  Raises:
    CheckpointError: no such step, or it is damaged.
  """
  if not path.is_dir():
    there = ", ".join(map(str, seal.steps(path.parent))) or "none"
    raise CheckpointError(f"checkpoint {path.name} is not in {path.parent}; there: {there}")
  problems = seal.verify(path, verify)
  if problems:
    raise CheckpointError(f"checkpoint {path.name} is damaged: {problems[0]}" +
                          (f" and {len(problems) - 1} more" if len(problems) > 1 else ""))
  return seal.read_manifest(path)


def read_extra(path: pathlib.Path) -> dict[str, Any]:
  """What `Checkpoints.save` was given as `extra`."""
  return json.loads((path / EXTRA).read_text("utf-8"))
