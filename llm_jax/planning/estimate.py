"""An estimate without a compiler: memory and time of a step from shapes, layouts and data sheets.

State is exact: it is counted from the same layouts that the run uses. Activations are what the backward pass would keep
by JAX's own tracing of the loss, with the scores of a fused attention left out. Time is the larger of arithmetic and
transfers plus three tenths of the smaller (what does not overlap), plus memory traffic and a latency for each
collective. Good for ruling out and ranking; a compiled plan decides.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from llm_jax.planning.hardware import Chip

ARITHMETIC_SHARE = 0.75  # of the peak that large matrix products reach
UNHIDDEN = 0.3  # share of the shorter of arithmetic and transfers that does not overlap with the longer
LATENCY = 20e-6  # seconds of a collective beside its bytes
PROBE = 136  # length of the traced row: no usual width, so that axes of the length can be told from others
HELD_LOGITS = 2**31


@dataclasses.dataclass(frozen=True)
class Traced:
  """What tracing a loss says, per token of a row. kept: bytes for the backward pass; of them `width` do not shrink when
  heads and feed-forward are split; logits: bytes of one token's scores; products: FLOPs of all matrix products, those
  computed again included, attention's scores excluded."""

  kept: float
  width: float
  logits: float
  products: float


@dataclasses.dataclass(frozen=True)
class Layout:
  """One way to run: mesh axes by name, micro-batches, and the bytes of state on one device that it gives."""

  mesh: Mapping[str, int]
  accumulate: int
  split_state: bool
  state: Mapping[str, int]
  gradients: int


def trace(loss: Any, params: Any, batch: Any, vocab: int, width: int) -> Traced:
  """Traces loss(params, batch) -> scalar on abstract arrays; rows of `batch` have PROBE tokens, one row."""
  _, pull = jax.eval_shape(lambda p, b: jax.vjp(lambda q: loss(q, b), p), params, batch)
  known = {(s.shape, s.dtype) for s in jax.tree.leaves(params)}
  kept = whole = 0.0
  for leaf in jax.tree.leaves(pull):
    if (leaf.shape, leaf.dtype) in known or leaf.shape.count(PROBE) > 1 or (leaf.shape and leaf.shape[-1] == vocab):
      continue  # a parameter itself; the scores of attention; the logits, which are counted apart
    if PROBE in leaf.shape:
      kept += leaf.size * leaf.dtype.itemsize
      whole += leaf.size * leaf.dtype.itemsize if leaf.shape[-1] == width else 0
  products = _products(jax.make_jaxpr(jax.grad(loss))(params, batch).jaxpr)
  return Traced(kept / PROBE, whole / PROBE, 2.0 * vocab, products / PROBE)


def _products(jaxpr: Any) -> float:
  """FLOPs of the matrix products of a program, each loop's body as often as it runs; attention's scores not."""
  total = 0.0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "dot_general":
      shapes = [v.aval.shape for v in (*eqn.invars, *eqn.outvars)]
      if not any(s.count(PROBE) > 1 for s in shapes):
        (contracted, _), _ = eqn.params["dimension_numbers"]
        total += 2.0 * math.prod(shapes[-1]) * math.prod(shapes[0][d] for d in contracted)
    times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
    for inner in _inner(eqn.params):
      total += times * _products(inner)
  return total


def _inner(params: Mapping[str, Any]) -> list[Any]:
  found = []
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      if hasattr(item, "jaxpr") and hasattr(item.jaxpr, "eqns"):
        found.append(item.jaxpr)
      elif hasattr(item, "eqns"):
        found.append(item)
  return found


def estimate(traced: Traced, layout: Layout, chip: Chip, *, tokens: int, attention: float, flops: float, layers: int,
             width: int, parameters: int) -> dict[str, Any]:
  """Memory and time of one step.

  Args:
    tokens: of the global batch.
    attention: FLOPs of attention's scores and sums in a step, forward and backward.
    flops: of the model in a step, forward and backward.
    layers, width, parameters: of the model.

  Returns:
    {'memory': {kind: bytes, 'peak': ...}, 'seconds': ..., 'mfu': ..., 'parts': {what: seconds}}
  """
  mesh = layout.mesh
  count, tensor = math.prod(mesh.values()), mesh.get("tensor", 1)
  rows = count // tensor
  local = tokens / rows / layout.accumulate
  kept = local * (traced.width + (traced.kept - traced.width) / tensor)
  logits = min(local * traced.logits / tensor, HELD_LOGITS) * 2
  gathered = 4 * parameters * 2 / max(layers, 1) / tensor if mesh.get("fsdp", 1) > 1 else 0
  updates = layout.gradients if layout.split_state else 0  # gathered beside the parameters that they move
  memory = {**layout.state, "gradients": layout.gradients, "activations": int(kept), "logits": int(logits),
            "gathered": int(gathered) + updates}
  peak = sum(memory.values())
  arithmetic = (traced.products * tokens + attention) / count / (ARITHMETIC_SHARE * chip.peak)
  moved = _transfers(mesh, layout, parameters, tokens, width, layers)
  speed = chip.link if count <= chip.near else chip.network
  transfers = sum(b for b, _ in moved) / speed + LATENCY * sum(n for _, n in moved)
  traffic = (3 * kept * layout.accumulate + 3 * sum(layout.state.values())) / chip.bandwidth
  if gathered:  # whole weights and gradients are written and read on their way
    traffic += 16 * parameters / tensor * layout.accumulate / chip.bandwidth
  seconds = max(arithmetic, transfers) + UNHIDDEN * min(arithmetic, transfers) + traffic
  return {"memory": {**memory, "peak": int(peak)}, "fits": peak < 0.95 * chip.memory, "seconds": seconds,
          "mfu": flops / (seconds * count * chip.peak),
          "parts": {"arithmetic": arithmetic, "transfers": transfers, "memory traffic": traffic}}


def _transfers(mesh: Mapping[str, int], layout: Layout, parameters: int, tokens: int, width: int,
               layers: int) -> list[tuple[float, int]]:
  """(bytes through one device's links, collectives) of each kind of transfer."""
  data, fsdp, tensor = (mesh.get(a, 1) for a in ("data", "fsdp", "tensor"))
  copies = data * mesh.get("replica", 1)
  part = lambda n: (n - 1) / n
  held = parameters / tensor
  weights = 8  # arrays of a layer that are gathered or summed one by one
  found = []
  if fsdp > 1:  # 16-bit weights forward and backward, float32 gradients
    found.append(((2 * 2 + 4) * held * part(fsdp) * layout.accumulate, 3 * weights * layers * layout.accumulate))
  if copies > 1:
    found.append((2 * 4 * held / fsdp * part(copies), 2 * layers + 3))  # the compiler combines what is small
  if tensor > 1:
    local = tokens / (copies * fsdp)
    found.append((4 * 2 * 2 * local * width * layers * part(tensor), 4 * layers * layout.accumulate))
  return found

