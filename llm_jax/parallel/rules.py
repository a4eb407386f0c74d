"""From logical axis names to mesh axes: one table, checked.

Parameters and activations carry logical names ('embed', 'heads', 'batch', ...); this table says which mesh axis each is
split over. `constrain(x, 'batch', 'length', None)` pins an activation, and does nothing when no mesh is active.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llm_jax.core.errors import ConfigError, unknown_name
from llm_jax.parallel import mesh as device_mesh

MeshAxes = str | tuple[str, ...] | None

# 'table_embed' is the width of an embedding table: splitting it like 'embed' makes XLA replicate the gathered rows.
# 'norm_length' is the length between attention and feed-forward, where every position is worked on by itself;
# 'expert_batch' are the rows of tokens that have come to the device of their expert.
TABLE: dict[str, MeshAxes] = {
    "embed": "fsdp", "table_embed": None, "vocab": ("tensor", "fsdp"), "positions": None,
    "heads": "tensor", "kv_heads": "tensor", "head": None, "mlp": "tensor", "norm": None, "labels": None,
    "experts": "expert", "layers": "stage",
    "batch": ("replica", "data", "fsdp", "expert"), "length": "context", "norm_length": ("context", "tensor"),
    "expert_batch": ("replica", "data", "fsdp"), "width": None,
    "tasks": ("replica", "data"), "examples": ("fsdp", "expert"),
}
# Axes whose size is the user's data, not a design choice: they stay whole where the mesh does not divide them.
FLEXIBLE = frozenset({"vocab", "kv_heads", "embed", "mlp", "length", "norm_length"})

# Beside these mesh axes, and no other, the program itself gathers weights that are split over `fsdp`.
GATHERED_BESIDE = ("replica", "data", "fsdp")

HOST = "pinned_host"  # the kind of memory that a device can read from its host


@dataclasses.dataclass(frozen=True, eq=False)
class ShardingRules:
  """A mesh and the table that maps logical axes onto it; compared by value, as a key of JAX's tracing caches.

  overrides: pairs (regex over parameter names, logical axes); microbatches, rounds, context_attention,
  offload_optimizer, gather_weights: as in parallel/mesh.py.
  """

  mesh: Mesh
  table: Mapping[str, MeshAxes] = dataclasses.field(default_factory=lambda: dict(TABLE))
  overrides: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
  microbatches: int | None = None
  rounds: int = 1
  context_attention: device_mesh.ContextAttention = "auto"
  offload_optimizer: bool = False
  gather_weights: device_mesh.GatherWeights = "auto"

  @property
  def _value(self) -> tuple:
    return (self.mesh, tuple(sorted(self.table.items())), self.overrides, self.microbatches, self.rounds,
            self.context_attention, self.offload_optimizer, self.gather_weights)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, ShardingRules) and self._value == other._value

  def __hash__(self) -> int:
    return hash(self._value)

  @property
  def program_gathers(self) -> bool:
    """Whether the program gathers weights that are split over `fsdp` itself (parallel/gathered.py)."""
    if self.gather_weights == "compiler" or not isinstance(self.mesh, Mesh):  # an abstract mesh has no links
      return False
    others = [a for a in self.mesh.shape if a not in GATHERED_BESIDE and self.mesh.shape[a] > 1]
    return self.mesh.shape.get("fsdp", 1) > 1 and not others

  @property
  def host_parts(self) -> int:
    """Into how many parts hosts can share the rows of a batch: those before the mesh cuts layers or sequences."""
    return self.ways("batch" if self.ways("layers") * self.ways("length") == 1 else "expert_batch")

  def over(self, axis: str) -> dict[str, int]:
    """{mesh axis: its size} of those that a logical axis is split over."""
    target = self.table[axis]
    names = (target,) if isinstance(target, str) else target or ()
    return {a: self.mesh.shape[a] for a in names if self.mesh.shape.get(a, 1) > 1}

  def ways(self, axis: str) -> int:
    """Into how many parts a logical axis is split where they divide it."""
    return math.prod(self.over(axis).values())

  def spec(self, axes: Sequence[str | None], shape: Sequence[int] | None = None, name: str = "array") -> PartitionSpec:
    """The PartitionSpec of an array with these logical axes.

    Raises:
      ConfigError: an unknown logical name, one mesh axis used twice, or a size that the mesh does not divide.
    """
    used: dict[str, str] = {}
    entries: list[MeshAxes] = []
    for i, axis in enumerate(axes):
      entries.append(self._entry(axis, None if shape is None else shape[i], used, name))
    return PartitionSpec(*entries)

  def _entry(self, axis: str | None, size: int | None, used: dict[str, str], name: str) -> MeshAxes:
    if axis is None:
      return None
    if axis not in self.table:
      raise unknown_name(f"logical axis of {name}", axis, list(self.table))
    kept: list[str] = []
    ways = 1
    for mesh_axis in self.over(axis):
      if mesh_axis in used:
        if axis in FLEXIBLE:
          continue
        raise ConfigError(f"sharding of {name}", f"mesh axis {mesh_axis!r} is used by {used[mesh_axis]!r} and {axis!r}")
      if size is not None and size % (ways * self.mesh.shape[mesh_axis]):
        if axis in FLEXIBLE:
          continue
        raise ConfigError(f"config.mesh.{mesh_axis}", f"{ways * self.mesh.shape[mesh_axis]} does not divide the {size} "
                          f"of axis {axis!r} of {name}", accepted=f"a divisor of {size}")
      kept.append(mesh_axis)
      used[mesh_axis] = axis
      ways *= self.mesh.shape[mesh_axis]
    return None if not kept else kept[0] if len(kept) == 1 else tuple(kept)

  def sharding(self, axes: Sequence[str | None], shape: Sequence[int] | None = None,
               name: str = "array") -> NamedSharding:
    """As `spec`, on this mesh."""
    return NamedSharding(self.mesh, self.spec(axes, shape, name))

  def replicated(self) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(self.mesh, PartitionSpec())

  def for_params(self, axes: Mapping[str, tuple[str | None, ...]],
                 shapes: Mapping[str, Any]) -> dict[str, NamedSharding]:
    """{parameter name: its sharding}; overrides win."""
    result = {}
    for name, logical in axes.items():
      for pattern, override in self.overrides:
        if re.search(pattern, name):
          if len(override) != len(logical):
            raise ConfigError(f"config.mesh.overrides[{pattern!r}]", f"{len(override)} axes for {name}, which has the "
                              f"{len(logical)} axes {logical}", accepted="one name or None for each axis")
          logical = override
      result[name] = self.sharding(logical, shapes[name].shape, name)
    return result

  def split_over_copies(self, shardings: Mapping[str, NamedSharding],
                        shapes: Mapping[str, Any]) -> dict[str, NamedSharding]:
    """These shardings with the data axis on the largest dimension that is whole and that it divides, the last of equal
    ones: parts of a narrow last one would be padded. An array without such a dimension stays as it is."""
    copies = self.mesh.shape["data"]
    def split(sharding: NamedSharding, shape: Sequence[int]) -> NamedSharding:
      spec = [*sharding.spec, *[None] * (len(shape) - len(sharding.spec))]
      free = [i for i, entry in enumerate(spec) if entry is None and shape[i] % copies == 0]
      if not free:
        return sharding
      spec[max(free, key=lambda i: (shape[i], i))] = "data"
      return NamedSharding(self.mesh, PartitionSpec(*spec))
    return {name: split(sharding, shapes[name].shape) for name, sharding in shardings.items()}

  def for_opt_state(self, optimizer: optax.GradientTransformation, shapes: Mapping[str, Any],
                    shardings: Mapping[str, NamedSharding]) -> Any:
    """Shardings of the optimizer state: what has a parameter's shape lies as the parameter does, in the hosts' memory
    where that is asked for; the rest is whole."""
    abstract = jax.eval_shape(optimizer.init, dict(shapes))
    names = {n: n for n in shapes}
    def place(leaf: Any, name: str) -> NamedSharding:
      same = getattr(leaf, "shape", None) == shapes[name].shape
      if not same:
        return self.replicated()
      return shardings[name].with_memory_kind(HOST) if self.offload_optimizer else shardings[name]
    return optax.tree.map_params(optimizer, place, abstract, names, transform_non_params=lambda _: self.replicated())


def from_options(options: device_mesh.Options, devices: Sequence[Any] | None = None) -> ShardingRules:
  """The rules of `config.mesh` over all devices, or the given ones.

  Raises:
    ConfigError: sizes that do not fit the devices or have not been chosen, an override that is no pattern or names no
      logical axis, a schedule for a pipeline that is not there.
  """
  if options.auto:
    raise ConfigError("config.mesh.auto", "nobody has chosen yet", accepted="False, or the doors train and plan, which "
                      "ask the planner (llm_jax/plan_auto.py)")
  table = TABLE if options.sequence_parallel else {**TABLE, "norm_length": TABLE["length"]}
  for pattern, axes in options.overrides:
    key = f"config.mesh.overrides[{pattern!r}]"
    try:
      re.compile(pattern)
    except re.error as e:
      raise ConfigError(key, f"no regular expression: {e}") from None
    for axis in axes:
      if axis is not None and axis not in table:
        raise unknown_name(key, axis, list(table), what="logical axis")
  found = device_mesh.make(options.axes, devices)
  if found.shape["stage"] == 1:
    for name, value, unsaid in (("microbatches", options.microbatches, None), ("rounds", options.rounds, 1)):
      if value != unsaid:
        raise ConfigError(f"config.mesh.{name}", f"got {value}, but there is no pipeline: config.mesh.stage is 1",
                          accepted=f"{unsaid}, or config.mesh.stage above 1")
  if options.offload_optimizer and HOST not in device_mesh.memories(found):
    raise ConfigError("config.mesh.offload_optimizer", f"{found.devices.flat[0].device_kind} devices cannot use "
                      "the memory of their host", accepted="False")
  rules = ShardingRules(found, dict(table), options.overrides, options.microbatches, options.rounds,
                        options.context_attention, options.offload_optimizer, options.gather_weights)
  if options.gather_weights == "program" and not rules.program_gathers:
    raise ConfigError("config.mesh.gather_weights", "'program' needs fsdp above 1, and only data and replica beside it",
                      accepted="'auto' or 'compiler'")
  return rules


def heads_for_length(rules: ShardingRules) -> ShardingRules:
  """The rules under which the devices that share a sequence hold whole sequences of a part of the heads each."""
  length = tuple(rules.over("length"))
  heads = {axis: (*rules.over(axis), *length) for axis in ("heads", "kv_heads")}
  return dataclasses.replace(rules, table={**rules.table, **heads, "length": None, "norm_length": None})


# Part of the key of JAX's tracing caches: what was traced under other rules is not reused.
_active = jax.make_user_context(default_value=None)


def use(rules: ShardingRules | None) -> contextlib.AbstractContextManager[None]:
  """While tracing under this, `constrain` pins activations by these rules."""
  return _active(rules)


def active() -> ShardingRules | None:
  """The rules in force where this is called, or None."""
  return _active.value


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """`x` with its layout pinned by logical axis names; `x` itself when no rules are active or one device is used."""
  rules = active()
  if rules is None or rules.mesh.size == 1:
    return x
  return jax.lax.with_sharding_constraint(x, rules.sharding(axes, x.shape, "activation"))
