"""What `--dry_run` prints: mesh, parameters, memory per device, FLOPs, schedules, a data sample. Nothing is trained."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from llm_jax.data.samples import sample
from llm_jax.parallel import pipeline
from llm_jax.planning.compiled import peak_bytes, state_bytes
from llm_jax.training import flops
from llm_jax.training.formats import si
from llm_jax.training.session import parameter_table, schedules

BLOCKS = " ▁▂▃▄▅▆▇█"


def describe(run: Any, compile: bool = True) -> str:
  """The whole text. compile: also compile the step here and report XLA's own memory figures."""
  parts = [_mesh(run), _parameters(run), _memory(run, compile), _flops(run), "\n".join(run.optimizer.notes),
           _schedules(run), "data\n" + run.corpus.description, _sample(run)]
  return "\n\n".join(parts)


def _mesh(run: Any) -> str:
  rules, kind = run.rules, jax.devices()[0].device_kind
  cut = {a: n for a, n in rules.mesh.shape.items() if n > 1}
  axes = " x ".join(f"{a}={n}" for a, n in cut.items()) or "of one device"
  lines = [f"mesh {axes} over {rules.mesh.size} x {kind}, {jax.process_count()} host(s)"]
  for axis in cut:
    lines.append(f"  {axis:<8} {', '.join(name for name in rules.table if axis in rules.over(name))}")
  if (plan := pipeline.schedule(rules)) is not None:
    lines.append(f"  pipeline {plan.microbatches} micro-batches, {plan.stages} stages, {plan.rounds} round(s): "
                 f"{plan.turns} turns, idle {plan.bubble:.1%}")
  return "\n".join(lines)


def _parameters(run: Any) -> str:
  rows = [(r["name"], "x".join(map(str, r["shape"])), f"{r['count']:,}", r["layout"], "" if r["trained"] else "frozen")
          for r in parameter_table(run)]
  widths = [max(len(r[i]) for r in rows) for i in range(4)]
  lines = [f"{r[0]:<{widths[0]}}  {r[1]:>{widths[1]}}  {r[2]:>{widths[2]}}  {r[3]:<{widths[3]}}  {r[4]}".rstrip()
           for r in rows]
  return "\n".join([f"parameters: {run.model.size:,}", *lines])


def _memory(run: Any, compile: bool) -> str:
  state = run.abstract_state
  kinds = {"parameters": (state.params, state.frozen), "optimizer": state.opt_state, "average": state.ema}
  lines = [f"{kind:<12} {si(state_bytes(tree), 'B')}" for kind, tree in kinds.items() if jax.tree.leaves(tree)]
  if compile:
    found = compiled_memory(run)
    if found is not None:
      lines += [f"{'temporaries':<12} {si(found.temp_size_in_bytes, 'B')}  (activations and gradients, XLA's figure)",
                f"{'peak':<12} {si(peak_bytes(found), 'B')}"]
  return "\n".join(["memory per device", *lines])


def compiled_memory(run: Any) -> Any:
  """XLA's memory analysis of the compiled step; None where the backend gives none."""
  return run.lowered().compile().memory_analysis()


def _flops(run: Any) -> str:
  per_token = flops.per_token(run.model, run.train.length)
  tokens = run.train.batch_size * run.train.length
  return (f"{si(per_token, 'FLOP')} per token, {tokens:,} tokens and {si(per_token * tokens, 'FLOP')} per step, "
          f"{si(per_token * tokens * run.train.steps, 'FLOP')} for {run.train.steps:,} steps")


def _schedules(run: Any) -> str:
  return schedule_lines(schedules(run))


def schedule_lines(found: Mapping[str, Any]) -> str:
  """A sparkline for each planned series."""
  lines = ["schedules"]
  for name, series in found.items():
    values = np.asarray(series["value"], float)
    lines.append(f"{name:<14} {sparkline(values)}  from {values[0]:.3g}, most {values.max():.3g}, to {values[-1]:.3g}")
  return "\n".join(lines)


def sparkline(values: np.ndarray, width: int = 60) -> str:
  """A line of blocks from 0 to the largest value."""
  picked = values[np.linspace(0, len(values) - 1, min(width, len(values))).astype(int)]
  top = max(float(picked.max()), 1e-30)
  return "".join(BLOCKS[round(max(v, 0.0) / top * (len(BLOCKS) - 1))] for v in picked)


def _sample(run: Any) -> str:
  shown = sample(run.corpus, 1, min(run.train.length, 256))
  return "data sample\n" + "\n".join(shown)
