"""An estimate without a compiler: memory and time of a step from shapes, layouts and data sheets.

State is exact: it is counted from the same layouts that the run uses. Activations are what the backward pass would keep
by JAX's own tracing of the loss, with the scores of a fused attention left out. Time is the larger of arithmetic and
transfers plus three tenths of the smaller (what does not overlap), plus memory traffic and a latency for each
collective. Good for ruling out and ranking; a compiled plan decides.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

from llm_jax.planning import transfers
from llm_jax.planning.hardware import Chip

ARITHMETIC_SHARE = 0.75  # of the peak that large matrix products reach
UNHIDDEN = 0.3  # share of the shorter of arithmetic and transfers that does not overlap with the longer
PROBE = 136  # length of the traced rows; the second time twice as long
ROWS = 2  # of the traced batch: some objectives pair each row with another
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
  """One way to run: mesh axes by name, micro-batches of accumulation and of the pipeline, and what that makes of the
  state: bytes on one device by kind, of gradients, and {mesh axes that cut a parameter: elements of all such}."""

  mesh: Mapping[str, int]
  turns: transfers.Turns
  split_state: bool
  state: Mapping[str, int]
  gradients: int
  weights: Mapping[frozenset, int]

  @property
  def filled(self) -> float:
    """The share of its turns in which a stage of a pipeline works."""
    return self.turns.pipeline / (self.turns.pipeline + self.mesh.get("stage", 1) - 1)


@dataclasses.dataclass(frozen=True)
class Work:
  """What a step is asked to do: tokens of the global batch; FLOPs of attention's scores and sums, and of the whole
  model, forward and backward; the network's sizes."""

  tokens: int
  attention: float
  flops: float
  net: transfers.Network


def trace(loss: Any, params: Any, batch_of: Callable[[int], Any], vocab: int, width: int) -> Traced:
  """Traces loss(params, batch) -> scalar on abstract arrays, for ROWS of PROBE tokens and of twice as many.

  What doubles with the row is counted; what grows with its square are attention's scores, which a kernel does not
  hold; what stays are the parameters. Whether rows are cut in two (source and target) does not matter then.
  """
  pulls, products = [], []
  for length in (PROBE, 2 * PROBE):
    batch = batch_of(length)
    _, pull = jax.eval_shape(lambda p, b: jax.vjp(lambda q: loss(q, b), p), params, batch)
    pulls.append(jax.tree.leaves(pull))
    products.append(_products(jax.make_jaxpr(jax.grad(loss))(params, batch).jaxpr))
  kept, whole, tokens = 0.0, 0.0, ROWS * PROBE
  for short, long in zip(*pulls, strict=True):
    if 1.5 < long.size / max(short.size, 1) < 3 and short.shape[-1] != vocab:  # the logits are counted apart
      kept += short.size * short.dtype.itemsize
      whole += short.size * short.dtype.itemsize if short.shape[-1] == width else 0
  return Traced(kept / tokens, whole / tokens, 2.0 * vocab, (4 * products[0] - products[1]) / (2 * tokens))


def _products(jaxpr: Any) -> float:
  """FLOPs of the matrix products of a program, each loop's body as often as it runs."""
  total = 0.0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "dot_general":
      (contracted, _), _ = eqn.params["dimension_numbers"]
      total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.invars[0].aval.shape[d] for d in contracted)
    elif eqn.primitive.name == "ragged_dot_general":
      total += _ragged(eqn)
    times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
    for inner in _inner(eqn.params):
      total += times * _products(inner)
  return total


def _ragged(eqn: Any) -> float:
  """FLOPs of a product of which each row meets the matrix of its group alone, or of the sum over each group's rows."""
  numbers = eqn.params["ragged_dot_dimension_numbers"]
  (contracted, _), _ = numbers.dot_dimension_numbers
  out, rows = eqn.outvars[0].aval.shape, eqn.invars[0].aval.shape
  groups = out[0] if set(numbers.lhs_ragged_dimensions) & set(contracted) else 1
  return 2.0 * math.prod(out) / groups * math.prod(rows[d] for d in contracted)


def _inner(params: Mapping[str, Any]) -> list[Any]:
  found = []
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      if hasattr(item, "jaxpr") and hasattr(item.jaxpr, "eqns"):
        found.append(item.jaxpr)
      elif hasattr(item, "eqns"):
        found.append(item)
  return found


def estimate(traced: Traced, layout: Layout, chip: Chip, work: Work) -> dict[str, Any]:
  """Memory and time of one step -> {'memory': {kind: bytes, 'peak': ...}, 'fits', 'seconds', 'mfu', 'parts': {what:
  seconds}}."""
  mesh, micro = layout.mesh, layout.turns.micro
  get = lambda axis: mesh.get(axis, 1)
  count, tensor, stage = math.prod(mesh.values()), get("tensor"), get("stage")
  local = work.tokens / math.prod(get(a) for a in transfers.BATCH) / get("context") / micro
  kept = local * (traced.width + (traced.kept - traced.width) / tensor) / stage / layout.filled
  logits = min(local * traced.logits / tensor, HELD_LOGITS) * 2
  memory = {**layout.state, "gradients": layout.gradients, "activations": int(kept), "logits": int(logits),
            "gathered": int(_gathered(layout, work.net)) + (layout.gradients if layout.split_state else 0)}
  if get("expert") > 1:  # rows that come in, what the experts make of them, and its gradient
    memory["exchange"] = int(3 * 2 * local * work.net.chosen * work.net.width * get("expert"))
  peak = sum(memory.values())
  arithmetic = (traced.products * work.tokens + work.attention) / count / layout.filled / (ARITHMETIC_SHARE * chip.peak)
  moving = transfers.seconds(mesh, layout.weights, work.net, work.tokens, layout.turns, chip)
  traffic = 3 * kept * micro + 3 * sum(layout.state.values()) + 3 * layout.gradients * (micro - 1)
  if get("fsdp") > 1:  # whole weights and gradients are written and read on their way
    traffic += 2 * work.net.layers / stage * _gathered(layout, work.net) * micro
  if get("context") > 1:  # blocks of scores are written and read, a few times each way
    traffic += 6 * 4 * work.attention / count / (12 * work.net.head)
  seconds = max(arithmetic, moving) + UNHIDDEN * min(arithmetic, moving) + traffic / chip.bandwidth
  return {"memory": {**memory, "peak": int(peak)}, "fits": peak < 0.95 * chip.memory, "seconds": seconds,
          "mfu": work.flops / (seconds * count * chip.peak),
          "parts": {"arithmetic": arithmetic, "transfers": moving, "memory traffic": traffic / chip.bandwidth}}


def _gathered(layout: Layout, net: transfers.Network) -> float:
  """Bytes of the whole weights of two layers beside their float32 gradients' parts, where fsdp cuts them; 0 else."""
  get = lambda axis: layout.mesh.get(axis, 1)
  held = sum(elements / math.prod(get(a) for a in axes if a != "fsdp") for axes, elements in layout.weights.items()
             if "fsdp" in axes and get("fsdp") > 1)
  return 2 * 4 * held / max(net.layers / get("stage"), 1)
