"""Metrics writers: one row of named numbers per logged step, to metrics.jsonl, TensorBoard and W&B.

DIR/metrics.jsonl is the source of truth: the report, the notebook and an exact resume read it and nothing else. A row
is one JSON object with `step` and named numbers, `{"step": 100, "train/loss": 3.21}`. A number that JSON has no word
for is written as null and named beside it, `"nonfinite": {"train/loss": "nan"}`, so that any JSON reader can read the
file and a divergence is still told from a missing value. docs/metrics.md lists every name.

What the clock or the machine decides is told by its name alone (`is_wall_clock`); everything else in a row is a
function of config and seed, and is the same bit for bit after any number of kills and resumes.
"""

import importlib
import importlib.util
import logging
import math
import numbers
import os
import pathlib
import time
from collections.abc import Collection, Mapping
from typing import Any

from llm_jax.core.errors import ConfigError
from llm_jax.training import run_directory
from llm_jax.training.run_directory import JsonLines

WALL_CLOCK_ROOMS = ("time", "memory")  # before the first slash: 'time/data'
WALL_CLOCK_NAMES = ("tokens_per_second", "flops_per_second", "mfu")  # after the first slash: 'train/mfu'

# name: (unit, meaning). A plug-in may write further names; these are the ones that the project itself writes.
KNOWN: dict[str, tuple[str, str]] = {
    "train/loss": ("nat/token", "objective per unit of target weight, on the training batches before their updates"),
    "train/bits_per_byte": ("bit/byte", "likelihood in training over the text's bytes, comparable between tokenizers"),
    "train/accuracy": ("", "share of targets whose most probable prediction is right"),
    "train/learning_rate": ("", "learning rate that the row's update used"),
    "train/gradient_norm": ("", "L2 norm of the whole gradient before clipping"),
    "train/skipped_updates": ("updates", "updates skipped so far by the NaN and spike guard"),
    "train/tokens": ("tokens", "positions processed since step 0, padding included"),
    "train/tokens_per_second": ("tokens/s", "positions processed per second, over all devices"),
    "train/flops_per_second": ("FLOP/s", "model FLOPs per second over all devices, without recomputation"),
    "train/mfu": ("", "model FLOP utilisation: FLOP/s over the devices' peak in bfloat16; absent on unknown devices"),
    "eval/loss": ("nat/token", "mean loss over the evaluation set, without dropout"),
    "eval/bits_per_byte": ("bit/byte", "likelihood over the bytes of the text, comparable between tokenizers"),
    "eval/perplexity": ("", "exp of the nats per token; compare only between equal tokenizers"),
    "eval/accuracy": ("", "share of targets whose most probable prediction is right"),
    "curriculum/length": ("tokens", "length of the examples of the row's step"),
    "curriculum/batch": ("examples", "examples in the global batch of the row's step"),
    "curriculum/admit": ("", "admitted difficulty, 1 = every example"),
    "time/data": ("s", "per step: the loop waits for the next batch"),
    "time/dispatch": ("s", "per step: the host hands the step to the device"),
    "time/device": ("s", "per step: the host waits for the device, so the rest of the step's time"),
    "time/step": ("s", "per step: all of it, evaluation and checkpoints left out"),
    "time/eval": ("s", "one evaluation"),
    "time/elapsed": ("s", "since this process began to train; starts again at a resume"),
}


def is_wall_clock(name: str) -> bool:
  """True if the clock or the machine decides this number, so that two equal runs may differ in it."""
  room, _, rest = name.partition("/")
  return room in WALL_CLOCK_ROOMS or rest.split("/")[0] in WALL_CLOCK_NAMES


def deterministic(row: Mapping[str, Any]) -> dict[str, Any]:
  """The row without its wall-clock numbers: what a kill and resume must reproduce bit for bit."""
  return {name: value for name, value in row.items() if not is_wall_clock(name)}


def rows(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """The rows of DIR/metrics.jsonl, with NaN and infinities back in their places; a torn last line is left out.

  Raises:
    DataError: a damaged line in the middle of the file.
  """
  return [_restored(row) for row in JsonLines(pathlib.Path(workdir) / run_directory.METRICS).read()]


def samples(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """The rows of DIR/samples.jsonl, `{step, prompt, text}`; see `rows`."""
  return JsonLines(pathlib.Path(workdir) / run_directory.SAMPLES).read()


class MetricsWriter:
  """Writes named numbers of a run to metrics.jsonl and, if asked, to TensorBoard and W&B.

  Exact resume needs two calls of the loop: `sync()` after the row of step s and before the checkpoint of step s is
  sealed, and `truncate_after(s)` after that checkpoint was restored. Then no row is missing and none is there twice.

  Args:
    workdir: the run directory; event files go to DIR/tensorboard.
    tensorboard: also write TensorBoard event files.
    wandb: keyword arguments of `wandb.init` (project, name, mode, ...), or None for no W&B.
    primary: False on all hosts but the first: nothing is written.

  Raises:
    ConfigError: W&B is asked for and not installed.
  """

  def __init__(self, workdir: str | os.PathLike, *, tensorboard: bool = True,
               wandb: Mapping[str, Any] | None = None, primary: bool = True):
    self.workdir, self.primary = pathlib.Path(workdir), primary
    self._metrics = JsonLines(self.workdir / run_directory.METRICS)
    self._samples = JsonLines(self.workdir / run_directory.SAMPLES)
    self._mirrors: list[Any] = []
    if wandb is not None:
      check_wandb()
    if primary:
      self._mirrors += [_TensorBoard(self.workdir / "tensorboard")] if tensorboard else []
      self._mirrors += [_WandB(self.workdir, wandb)] if wandb is not None else []

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Appends one row. Values are numbers (also of NumPy, also 0-d arrays) or strings.

    Raises:
      TypeError: a value is neither, or a name has no room (`loss` instead of `train/loss`).
    """
    if not self.primary:
      return
    values = {name: _scalar(name, value) for name, value in values.items()}
    nonfinite = {name: str(v) for name, v in values.items() if isinstance(v, float) and not math.isfinite(v)}
    row = {"step": int(step), **{name: None if name in nonfinite else v for name, v in values.items()}}
    self._metrics.append(row | ({"nonfinite": nonfinite} if nonfinite else {}))
    for mirror in self._mirrors:
      mirror.write(int(step), values)

  def write_sample(self, step: int, prompt: str, text: str) -> None:
    """Appends a generated text to samples.jsonl."""
    if self.primary:
      self._samples.append({"step": int(step), "prompt": prompt, "text": text})

  def truncate_after(self, step: int, again: Collection[str] = ()) -> int:
    """Drops rows and samples of steps later than `step`, and a torn last line; returns how many rows were dropped.

    TensorBoard is told to hide what it holds of later steps. W&B cannot forget: it shows the later value of a step.

    Args:
      step: the step of the checkpoint that was restored.
      again: side work of that same step that is about to be done again, 'evaluate' and 'sample': a process that was
        killed may have written it already, so it is dropped too.

    Raises:
      DataError: a damaged line in the middle of a file.
    """
    if not self.primary:
      return 0
    self._samples.read()  # damage is told before anything is dropped
    redone = lambda row: "evaluate" in again and any(name.startswith("eval/") for name in row)
    dropped = self._metrics.keep(lambda row: row["step"] < step or (row["step"] == step and not redone(row)))
    self._samples.keep(lambda row: row["step"] < step or (row["step"] == step and "sample" not in again))
    for mirror in self._mirrors:
      mirror.truncate_after(step)
    return dropped

  def sync(self) -> None:
    """Returns when every row is on the disk; call it before a checkpoint is sealed."""
    self._metrics.sync()
    self._samples.sync()
    for mirror in self._mirrors:
      mirror.sync()

  def close(self) -> None:
    self._metrics.close()
    self._samples.close()
    for mirror in self._mirrors:
      mirror.close()

  def __enter__(self) -> "MetricsWriter":
    return self

  def __exit__(self, *exception: Any) -> None:
    self.close()


def check_wandb(key: str = "config.log.wandb") -> None:
  """Raises ConfigError if wandb is not installed; a door calls it before anything compiles."""
  if importlib.util.find_spec("wandb") is None:
    raise ConfigError(key, "W&B is asked for but the package wandb is not installed",
                      accepted="None, or a dict after `pip install wandb`")


def table() -> str:
  """Markdown table of the known metric names: the one in docs/metrics.md."""
  lines = ["| name | unit | meaning | repeats exactly |", "|---|---|---|---|"]
  repeats = lambda name: "no, wall-clock" if is_wall_clock(name) else "yes"
  return "\n".join(lines + [f"| `{name}` | {unit} | {meaning} | {repeats(name)} |"
                            for name, (unit, meaning) in KNOWN.items()])


class _TensorBoard:
  """Event files, opened at the first row; a resume opens a new one that hides the steps it is about to write again."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self._writer: Any = None
    self._purge: int | None = None

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    if self._writer is None:
      logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)  # it warns of each NaN, which a row may hold
      self._writer = importlib.import_module("tensorboardX").SummaryWriter(
          str(self.folder), purge_step=self._purge,
          filename_suffix=f".{time.time_ns()}")  # a file of the same second would be overwritten
    for name, value in values.items():
      if not isinstance(value, str):
        self._writer.add_scalar(name, value, step)

  def truncate_after(self, step: int) -> None:
    self.close()
    self._purge = step + 1

  def sync(self) -> None:
    if self._writer is not None:
      self._writer.flush()

  def close(self) -> None:
    if self._writer is not None:
      self._writer.close()
      self._writer = None


class _WandB:
  """A W&B run that keeps its identity over resumes (DIR/wandb.json)."""

  def __init__(self, workdir: pathlib.Path, options: Mapping[str, Any]):
    known = run_directory.read_document(workdir, "wandb.json") or {}
    wandb = importlib.import_module("wandb")
    self._run = wandb.init(**{"dir": str(workdir), "resume": "allow", "id": known.get("id"), **options})
    self._run.define_metric("step")
    self._run.define_metric("*", step_metric="step")  # W&B's own step may never go back, ours does at a resume
    run_directory.write_document(workdir, "wandb.json", {"id": self._run.id})

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    self._run.log({**values, "step": step})

  def truncate_after(self, step: int) -> None:
    pass  # its history is append-only

  def sync(self) -> None:
    pass  # its own thread sends

  def close(self) -> None:
    self._run.finish()


def _scalar(name: str, value: Any) -> float | int | str:
  if "/" not in name:
    raise TypeError(f"metric {name!r} has no room: write 'train/{name}' or 'eval/{name}'")
  if isinstance(value, str):
    return value
  if getattr(value, "ndim", None) == 0:
    value = value.item()
  if isinstance(value, numbers.Integral):  # bool too
    return int(value)
  if isinstance(value, numbers.Real):
    return float(value)
  raise TypeError(f"metric {name!r} is {type(value).__name__}, not a number")


def _restored(row: dict[str, Any]) -> dict[str, Any]:
  nonfinite = row.pop("nonfinite", {})
  return row | {name: float(word) for name, word in nonfinite.items()}


if __name__ == "__main__":
  print(table())
