"""Checkpoints: save without stopping the training, restore exactly, and never load what is damaged.

Orbax writes the arrays (asynchronously, each host its shards). What this file adds is the promise around it: a step
counts only when it is complete, sealed and verified (training/seal.py); a damaged step is named, set aside and the
next older one used; when there are checkpoints but none is good the run stops, it never starts afresh by itself; a
full disk is an error that names the path, the bytes and the last good step, and leaves the older steps intact.
"""

import errno
import importlib.metadata
import json
import logging
import pathlib
import shutil
import threading
from collections.abc import Mapping
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp

from llm_jax.core.errors import CheckpointError
from llm_jax.training import first_process, seal, stored_arrays
from llm_jax.training.good_steps import EXTRA, best_step, local_path, newest_good, read_extra, verified_manifest
from llm_jax.training.run_directory import replace_text
from llm_jax.training.same_run import check_same_run as check_same_run
from llm_jax.training.weights import load_params as load_params

GO, SEALED_ALREADY, FAILED = 0, 1, 2

log = logging.getLogger(__name__)


class Checkpoints:
  """The checkpoints of one run; one writer at a time (training/run_lock.py keeps others out).

  Args:
    directory: DIR/checkpoints, on a file system (mount a bucket to use one).
    keep: how many of the newest sealed steps stay; None keeps all.
    keep_best: ('eval/loss', 'min') keeps also the step whose saved metrics are best in that.
    asynchronous: False makes `save` return only when the step is sealed.
    verify: how much of a step is hashed before use, see seal.verify.
    on_save_error: 'stop' raises a failed save from the next `save`, `check` or `wait`; 'warn' logs it and goes on.

  In a run of several processes each calls every method at the same points; process 0 alone renames, seals, deletes.
  """

  def __init__(self, directory: str | pathlib.Path, *, keep: int | None = 3,
               keep_best: tuple[str, Literal["min", "max"]] | None = None, asynchronous: bool = True,
               verify: seal.Verify = "auto", on_save_error: Literal["stop", "warn"] = "stop"):
    if keep is not None and keep < 1:
      raise ValueError(f"keep={keep}: at least the newest checkpoint has to stay")
    self.directory = local_path(directory)
    self.keep, self.keep_best, self.asynchronous = keep, keep_best, asynchronous
    self.verify, self.on_save_error = verify, on_save_error
    self._writer: ocp.AsyncCheckpointer | None = None
    self._thread: threading.Thread | None = None
    self._failure: CheckpointError | None = None
    self._verified: set[int] = set()

  def save(self, step: int, state: Any, extra: Mapping[str, Any], metrics: Mapping[str, float] | None = None) -> bool:
    """Starts to save `state`, whose arrays may be donated as soon as this returns; waits for the save before it.

    A step that is sealed already is left alone: the last step can be saved without asking whether the interval has
    just done so.

    Args:
      step: number of updates done.
      state: pytree of jax arrays, typed random keys among them.
      extra: JSON that a resume needs (config, data position, ...); the seal holds a hash of `extra['config']`.
      metrics: what `keep_best` compares.

    Returns:
      Whether a save was started.

    Raises:
      CheckpointError: this save, or the one before, failed (on_save_error='warn': logged instead).
    """
    self._join()
    self._report_failure()
    leaves = stored_arrays.named_leaves(state)
    about = {"format": 1, "step": step, "metrics": _floats(metrics or {}),
             "config_sha256": seal.json_hash(extra.get("config")), "arrays": stored_arrays.table_of(leaves),
             "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax", "orbax-checkpoint")}}
    needed = stored_arrays.stored_bytes(leaves)
    extra_json = json.dumps(dict(extra), indent=1)  # now: the caller may change it while the arrays are written
    decision = first_process.decided(lambda: self._prepare(step, needed))
    if decision == GO:
      try:
        self._writer = self._writer or stored_arrays.make_writer()
        stored_arrays.start_write(self._writer, self._saving(step) / stored_arrays.FOLDER, leaves)
      except Exception as e:  # a failing disk makes the libraries below raise anything
        self._fail(step, needed, e)
        decision = FAILED
    if decision == GO:
      self._thread = threading.Thread(target=self._finish, args=(step, needed, about, extra_json), name="seal")
      self._thread.start()
      if not self.asynchronous:
        self._join()
    elif decision == FAILED and self._failure is None:
      self._failure = CheckpointError(f"checkpoint {step} was not written: see the message of process 0")
    self._report_failure()
    return decision == GO

  def record(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds what was measured after `step` was saved to its manifest, for `keep_best`, and keeps what then has to stay.

    Raises:
      CheckpointError: the manifest could not be replaced (on_save_error='warn': logged instead).
    """
    self._join()
    if jax.process_index() == 0:
      path = self.directory / str(step)
      try:
        seal.add_metrics(path, _floats(metrics))
        self._retain()
      except (OSError, ValueError) as e:
        self._failure = CheckpointError(f"what was measured at checkpoint {step} could not be added to {path}: {e}")
    self._report_failure()

  def check(self) -> None:
    """Raises the failure of the last save if it is known by now; never waits. Call it every log interval."""
    if self._thread is None or not self._thread.is_alive():
      self._report_failure()

  def wait(self) -> None:
    """Returns when all that was saved is sealed, on every process; raises the failure of the last save."""
    self._join()
    if first_process.decided(lambda: FAILED if self._failure else GO) == FAILED and self._failure is None:
      self._failure = CheckpointError("the last checkpoint was not sealed: see the message of process 0")
    self._report_failure()

  def close(self) -> None:
    """`wait`, then frees the writer."""
    try:
      self.wait()
    finally:
      self._drop_writer()

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
    if error is None:
      self.close()
    else:  # that error is the one to show; what was saved before it still gets its seal
      self._join()
      self._drop_writer()

  def latest_good(self) -> int | None:
    """The newest step that is sealed and verifies; None when this run has never finished a checkpoint.

    Damaged newer steps are named in a warning and set aside under another name.

    Raises:
      CheckpointError: there are checkpoints, or damaged ones set aside, but none is good.
    """
    self._join()
    found: list[int | None] = [None]

    def look() -> int:
      try:
        found[0] = newest_good(self.directory, self.verify, set_aside=True)
        return -1 if found[0] is None else found[0]
      except CheckpointError:
        if jax.process_count() > 1:
          log.exception("no usable checkpoint")  # the other processes only learn that there is none
          return -2
        raise

    step = first_process.decided(look)
    if step == -2:
      raise CheckpointError(f"no usable checkpoint in {self.directory}: see the message of process 0")
    if step >= 0:
      self._verified.add(step)
    return None if step == -1 else step

  def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
    """The state and `extra` of a step, bit for bit, placed by the shardings of `abstract_state`, on whatever mesh.

    abstract_state: the state's pytree of ShapeDtypeStructs with shardings, or of arrays that look as wanted.

    Raises:
      CheckpointError: the step is damaged or unreadable, or its names, shapes or dtypes are not those of the state.
    """
    path = self.directory / str(step)
    manifest = verified_manifest(path, "size" if step in self._verified else self.verify)
    wanted = stored_arrays.named_leaves(abstract_state)
    wrong = stored_arrays.mismatch(manifest["arrays"], stored_arrays.table_of(wanted), first="params.")
    if wrong:
      raise CheckpointError(f"checkpoint {step} does not fit this model and optimizer: {wrong}\n"
                            "  to take over what fits as a start, use --init_from (weights only) with a new --workdir")
    arrays = stored_arrays.read(path / stored_arrays.FOLDER, wanted)
    state = jax.tree.unflatten(jax.tree.structure(abstract_state), [arrays[n] for n in wanted])
    return state, read_extra(path)

  def extra(self, step: int) -> dict[str, Any]:
    """The `extra` of a step alone.

    Raises:
      CheckpointError: it cannot be read.
    """
    return read_extra(self.directory / str(step))

  def sealed(self) -> list[int]:
    """The steps on disk, oldest first, not verified."""
    return seal.steps(self.directory)

  def best(self) -> int | None:
    """The sealed step with the best `keep_best` metric; the earliest of equals; None if no step has it."""
    if self.keep_best is None:
      return None
    return best_step(self.directory, *self.keep_best)

  # On process 0: before the arrays are written, after they are, and when that fails.

  def _prepare(self, step: int, needed: int) -> int:
    try:
      if (self.directory / str(step)).is_dir():
        return SEALED_ALREADY
      self.directory.mkdir(parents=True, exist_ok=True)
      seal.sweep(self.directory)
      if shutil.disk_usage(self.directory).free < needed:
        raise OSError(errno.ENOSPC, "not enough free space")
      self._saving(step).mkdir()
      return GO
    except OSError as e:
      self._fail(step, needed, e)
      return FAILED

  def _finish(self, step: int, needed: int, about: dict[str, Any], extra_json: str) -> None:
    """In a thread: waits until all processes have written, then seals and deletes what need not stay."""
    try:
      assert self._writer is not None
      self._writer.wait_until_finished()
      if jax.process_index() == 0:
        replace_text(self._saving(step) / EXTRA, extra_json)
        seal.seal(self._saving(step), self.directory / str(step), about)
        self._verified.add(step)
        self._retain()
    except Exception as e:  # as in save: anything can come from below when a disk fails
      self._fail(step, needed, e)

  def _retain(self) -> None:
    """Deletes what need not stay. The step just sealed always does, so there is a good one at every instant."""
    steps = seal.steps(self.directory)
    stay = set(steps if self.keep is None else steps[-self.keep:]) | {self.best()}
    try:
      for step in steps:
        if step not in stay:
          seal.discard(self.directory / str(step))
    except OSError as e:
      log.warning("%s: older checkpoints could not be deleted: %s", self.directory, e.strerror)

  def _fail(self, step: int, needed: int, error: Exception) -> None:
    """Records why a step could not be written, and frees the room that its remains take."""
    try:
      if jax.process_index() == 0 and self._saving(step).is_dir():
        seal.discard(self._saving(step))
      there = next(path for path in (self.directory, *self.directory.parents) if path.exists())
      free = f"{shutil.disk_usage(there).free:,} bytes free"
    except OSError as e:
      free = f"free space unknown ({e.strerror})"
    older = seal.steps(self.directory)
    self._failure = CheckpointError(
        f"checkpoint {step} could not be written to {self.directory}: {stored_arrays.first_line(error)}\n"
        f"  needs up to {needed:,} bytes, {free}; " +
        (f"the last good step, {older[-1]}, is intact" if older else "there is no earlier step"))
    self._failure.__cause__ = error

  def _report_failure(self) -> None:
    failure, self._failure = self._failure, None
    if failure is None:
      return
    self._drop_writer()  # its state after an error is not ours to rely on
    if self.on_save_error == "stop":
      raise failure
    log.warning("%s", failure)

  def _drop_writer(self) -> None:
    if self._writer is not None:
      try:
        self._writer.close()
      except Exception as e:  # the same failure again, already reported
        log.debug("closing the writer: %s", e)
      self._writer = None

  def _join(self) -> None:
    if self._thread is not None:
      self._thread.join()
      self._thread = None

  def _saving(self, step: int) -> pathlib.Path:
    return self.directory / f"{step}{seal.SAVING}"


def _floats(metrics: Mapping[str, float]) -> dict[str, float]:
  return {name: float(value) for name, value in metrics.items()}
