"""The training door as a user calls it, in this process or in one of its own, and what a run left behind."""

import contextlib
import io
import os
import pathlib
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import numpy as np

from llm_jax import doors, train
from llm_jax.training import metrics
from llm_jax.training.good_steps import newest_good

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = str(pathlib.Path(__file__).with_name("tiny_run.py"))
FAKE_DEVICES = "--xla_force_host_platform_device_count"


class Outcome(NamedTuple):
  """How a door ended."""

  code: int
  out: str
  err: str


def call(*arguments: str) -> Outcome:
  """The door in this process. An exception that is not the user's mistake is raised."""
  out, err = io.StringIO(), io.StringIO()
  code: Any = 0
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    try:
      doors.run(train.main, train.define, ["train", *map(str, arguments)])
    except SystemExit as e:
      code = e.code or 0
  return Outcome(code, out.getvalue(), err.getvalue())


def environment(devices: int = 1, **changes: str) -> dict[str, str]:
  """The environment of a process of its own that sees this many devices."""
  kept = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(FAKE_DEVICES)]
  flags = " ".join([*kept, f"{FAKE_DEVICES}={devices}"])
  return {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "LLM_JAX_MALLOC": "0", **changes}


def start(*arguments: str, cwd: pathlib.Path = ROOT, **changes: Any) -> subprocess.Popen:
  """The door in a process of its own, running."""
  return subprocess.Popen([sys.executable, "-m", "llm_jax.train", *map(str, arguments)], cwd=cwd,
                          env=environment(**changes), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen, timeout: float = 300) -> Outcome:
  """Waits for it."""
  try:
    out, err = process.communicate(timeout=timeout)
  finally:
    process.kill()
  return Outcome(process.returncode, out, err)


def spawn(*arguments: str, timeout: float = 300, **changes: Any) -> Outcome:
  """The door in a process of its own, to its end."""
  return finish(start(*arguments, **changes), timeout)


def tiny(workdir: pathlib.Path, *more: str) -> list[str]:
  """Arguments that run tests/laws/tiny_run.py in `workdir`."""
  return [f"--config={TINY}", f"--workdir={workdir}", *more]


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The metrics rows without what the clock decides."""
  return [metrics.deterministic(r) for r in metrics.rows(workdir)]


def state(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """{name: array} of everything in the newest good checkpoint, read without the code that wrote it."""
  import orbax.checkpoint as ocp

  step = newest_good(workdir / "checkpoints", set_aside=False)
  folder = workdir / "checkpoints" / str(step) / "state"
  with ocp.PyTreeCheckpointer() as reader:  # as plain arrays: the devices of several hosts are not here
    names = reader.metadata(folder).item_metadata.tree
    how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), names)
    tree = reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=how))
  flat = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat} | {"step": np.asarray(step)}


def differences(workdir: pathlib.Path, other: pathlib.Path) -> list[str]:
  """What two finished runs do not share bit for bit: names of arrays, metrics rows, samples."""
  mine, theirs = state(workdir), state(other)
  found = [f"{n}: only in one" for n in sorted(mine.keys() ^ theirs.keys())]
  found += [f"{n}: bits differ" for n in sorted(mine.keys() & theirs.keys())
            if mine[n].dtype != theirs[n].dtype or mine[n].tobytes() != theirs[n].tobytes()]
  found += [f"row {a} is not {b}" for a, b in zip(rows(workdir), rows(other)) if repr(a) != repr(b)]
  if len(rows(workdir)) != len(rows(other)):
    found.append(f"{len(rows(workdir))} rows, not {len(rows(other))}")
  if metrics.samples(workdir) != metrics.samples(other):
    found.append(f"samples {metrics.samples(workdir)} are not {metrics.samples(other)}")
  return found


def logged_twice(workdir: pathlib.Path) -> list[str]:
  """(step, kind of row) that occurs more than once."""
  seen: dict[tuple, int] = {}
  for row in rows(workdir):
    kind = (row["step"], "train/loss" in row)
    seen[kind] = seen.get(kind, 0) + 1
  return [f"step {step}: {n} rows" for (step, _), n in seen.items() if n > 1]
