"""Runs built in this process on some of its eight devices, stepped by hand."""

from typing import Any

import door
import jax
import numpy as np

from llm_jax import experiment
from llm_jax.core import config as configs
from llm_jax.training.step import knobs_of


def config(**changes: Any) -> dict[str, Any]:
  """The config of tests/laws/tiny_run.py with {section: {knob: value}} or {section: None} changed."""
  found = configs.load_file(door.TINY)
  for section, knobs in changes.items():
    found[section] = knobs if not isinstance(knobs, dict) else {**(found.get(section) or {}), **knobs}
  return found


def build(monkeypatch, devices: int = 1, **changes: Any) -> experiment.Run:
  """The run of `config(**changes)` on the first so many devices."""
  return build_from(monkeypatch, config(**changes), devices)


def build_from(monkeypatch, made: dict[str, Any], devices: int = 1) -> experiment.Run:
  """The run of a config on the first so many devices."""
  first = jax.devices()[:devices]
  with monkeypatch.context() as patch:
    patch.setattr(jax, "devices", lambda *_: first)
    return experiment.build(made)


def steps(run: experiment.Run, count: int, state: Any = None) -> tuple[Any, list[dict[str, float]]]:
  """The state after `count` more steps and the metrics of each."""
  state = run.init_state() if state is None else state
  rows = []
  for step in range(int(state.step), int(state.step) + count):
    plan = run.curriculum.plan(step, run.curriculum.init())
    state, vector = run.compiled_step(state, run.batch(step), knobs_of(plan))
    rows.append(dict(zip(run.metric_names, np.asarray(vector).tolist(), strict=True)))
  return state, rows


def losses(run: experiment.Run, count: int) -> list[float]:
  """The training losses of the first steps."""
  return [row["loss"] for row in steps(run, count)[1]]


def shapes(batch: Any) -> dict[str, tuple[int, ...]]:
  """{name: shape} of a batch, real or told."""
  return {jax.tree_util.keystr(path): a.shape for path, a in jax.tree_util.tree_leaves_with_path(batch)}


def bits(state: Any) -> dict[str, bytes]:
  """{name: bytes} of parameters, optimizer and average."""
  flat = jax.tree_util.tree_flatten_with_path((state.params, state.opt_state, state.ema))[0]
  return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in flat}
