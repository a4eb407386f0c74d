"""What crosses the links in a step, by mesh axis, and how long the links need for it: a part of the estimate.

Weights that `fsdp` cuts are gathered and their gradients scattered; gradients of what an axis of the batch does not cut
are summed over it; `tensor`, `context`, `expert` and `stage` move activations. An axis that reaches beyond the devices
which the fast links join goes over the network for that part of it, after the fast part has been done.
"""

import dataclasses
import math
from collections.abc import Mapping

from llm_jax.parallel.mesh import AXES
from llm_jax.parallel.rules import TABLE
from llm_jax.planning.hardware import Chip

LATENCY = 20e-6  # seconds of a collective beside its bytes
WEIGHTS = 8  # arrays of a layer that are gathered or summed one by one
BATCH = tuple(TABLE["batch"] or ())  # the mesh axes that cut the rows of a batch


@dataclasses.dataclass(frozen=True)
class Network:
  """Of a network, what its transfers depend on: layers; width of the residual stream; key_width: of one token's keys,
  all heads; head: width of one head; mixtures: layers that are mixtures of experts; chosen: experts of a token."""

  layers: int
  width: int
  key_width: int
  head: int
  mixtures: int
  chosen: int


@dataclasses.dataclass(frozen=True)
class Turns:
  """micro: micro-batches of accumulation; pipeline: micro-batches of the pipeline, 1 without one."""

  micro: int
  pipeline: int


def network(model: object, shapes: Mapping, axes: Mapping) -> Network:
  """Read from the parameters' logical axes, so that no architecture has to say it itself."""
  size = lambda name, axis: dict(zip(axes[name], shapes[name].shape)).get(axis, 1)
  queries = [n for n in shapes if n.endswith("query.kernel")]
  keys = [n for n in shapes if n.endswith("key.kernel")]
  mixed = [n for n in shapes if "experts" in axes[n] and n.endswith("kernel")]
  widths = [size(n, axis) for n in shapes for axis in ("embed", "table_embed") if axis in axes[n]]
  stacks, mixtures = (max([size(n, "layers") for n in names], default=0) for names in (shapes, mixed))
  return Network(sum(size(n, "layers") for n in queries) or stacks or 1, max(widths, default=1),
                 max([size(n, "kv_heads") * size(n, "head") for n in keys], default=0),
                 max([size(n, "head") for n in queries], default=64), mixtures,
                 getattr(getattr(model, "config", None), "experts_per_token", 1) or 1)


def seconds(mesh: Mapping[str, int], weights: Mapping[frozenset, int], net: Network, tokens: int, turns: Turns,
            chip: Chip) -> float:
  """Time of all transfers of a step, one after the other.

  Args:
    weights: {mesh axes that cut a parameter: elements of all such parameters, whole}.
    tokens: of the global batch.
  """
  links = _Links(mesh, chip)
  get = lambda axis: mesh.get(axis, 1)
  layers = max(net.layers // get("stage"), 1)
  passes = turns.micro * (turns.pipeline + get("stage") - 1 if turns.pipeline > 1 else 1)
  total = 0.0
  for axes, elements in weights.items():
    held = elements / math.prod(get(a) for a in axes if a != "fsdp")
    if "fsdp" in axes and get("fsdp") > 1:  # 16-bit weights forward and backward, float32 gradients
      total += links.gather(("fsdp",), (2 * 2 + 4) * held) * passes
    copies = tuple(a for a in BATCH if a not in axes and get(a) > 1)
    total += links.gather(copies, 2 * 4 * elements / math.prod(get(a) for a in axes))
  fsdp = any("fsdp" in axes for axes in weights) and get("fsdp") > 1
  total += LATENCY * (3 * WEIGHTS * layers * passes if fsdp else 2 * layers + 3)  # what is small is combined
  local = tokens / math.prod(get(a) for a in BATCH) / get("context")  # of one device, all micro-batches
  state = 2 * local * net.width  # bytes of the residual stream in 16 bits
  if get("tensor") > 1:
    total += links.gather(("tensor",), 4 * 2 * state * layers) + LATENCY * 4 * layers * passes
  if get("context") > 1:  # keys and values round the ring, forward, again backward, and their gradients
    ring = 2 * local * 2 * net.key_width / get("tensor") * get("context")
    total += links.gather(("context",), 4 * ring * layers) + LATENCY * 3 * layers * get("context") * passes
  if get("expert") > 1:  # to the experts and back, forward, again backward; room for all choices of all peers
    share = net.mixtures / max(get("stage"), 1)
    total += links.gather(("expert",), 6 * state * net.chosen * get("expert") * share) + LATENCY * 6 * share * passes
  if get("stage") > 1:
    part = (turns.pipeline + get("stage") - 1) / turns.pipeline
    total += 2 * part * state / links.slowest("stage") + LATENCY * 2 * passes
  return total


class _Links:
  """Where the axes of a mesh lie among the links."""

  def __init__(self, mesh: Mapping[str, int], chip: Chip):
    self.mesh, self.chip = mesh, chip

  def parts(self, axis: str) -> tuple[int, int]:
    """(devices of the axis that fast links join, such groups)."""
    inner = math.prod(self.mesh.get(a, 1) for a in AXES[AXES.index(axis) + 1:])
    size = self.mesh.get(axis, 1)
    fast = math.gcd(size, max(self.chip.near // inner, 1))
    return fast, size // fast

  def gather(self, axes: tuple[str, ...], size: float) -> float:
    """Seconds to gather `size` bytes over these axes, or to scatter a sum of them: nearest devices first."""
    found, left = 0.0, size
    split = [self.parts(axis) for axis in axes]
    for speed, ways in ((self.chip.link, [f for f, _ in split]), (self.chip.network, [s for _, s in split])):
      n = math.prod(ways)
      found += left * (n - 1) / n / speed
      left /= n
    return found

  def slowest(self, axis: str) -> float:
    """Bytes a second between neighbours along an axis."""
    return self.chip.link if self.parts(axis)[1] == 1 else self.chip.network
