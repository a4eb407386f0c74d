"""From logical axis names to mesh axes: one table, checked.

Parameters and activations carry logical names ('embed', 'heads', 'batch', ...); this table says which mesh axis each is
split over. `constrain(x, 'batch', 'length', None)` pins an activation, and does nothing when no mesh is active.
"""

import contextlib
import contextvars
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llm_jax.core.errors import ConfigError, unknown_name

MeshAxes = str | tuple[str, ...] | None

# 'table_embed' is the width of an embedding table: splitting it like 'embed' makes XLA replicate the gathered rows.
TABLE: dict[str, MeshAxes] = {
    "embed": "fsdp", "table_embed": None, "vocab": ("tensor", "fsdp"), "positions": None,
    "heads": "tensor", "kv_heads": "tensor", "head": None, "mlp": "tensor", "norm": None, "labels": None,
    "experts": None,
    "layers": None,
    "batch": ("data", "fsdp"), "length": None, "width": None, "tasks": "data", "examples": "fsdp",
}
# Axes whose size is the user's data, not a design choice: they stay whole where the mesh does not divide them.
FLEXIBLE = frozenset({"vocab", "kv_heads", "embed", "mlp"})


@dataclasses.dataclass(frozen=True)
class ShardingRules:
  """A mesh and the table that maps logical axes onto it; overrides: {regex over parameter names: logical axes}."""

  mesh: Mesh
  table: Mapping[str, MeshAxes] = dataclasses.field(default_factory=lambda: dict(TABLE))
  overrides: Mapping[str, tuple[str | None, ...]] = dataclasses.field(default_factory=dict)

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
    target = self.table[axis]
    wanted = [a for a in ((target,) if isinstance(target, str) else target or ()) if self.mesh.shape[a] > 1]
    kept: list[str] = []
    ways = 1
    for mesh_axis in wanted:
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
      for pattern, override in self.overrides.items():
        if re.search(pattern, name):
          logical = tuple(override)
      result[name] = self.sharding(logical, shapes[name].shape, name)
    return result

  def for_opt_state(self, optimizer: optax.GradientTransformation, shapes: Mapping[str, Any],
                    shardings: Mapping[str, NamedSharding]) -> Any:
    """Shardings of the optimizer state: what has a parameter's shape lies as the parameter does, the rest is whole."""
    abstract = jax.eval_shape(optimizer.init, dict(shapes))
    names = {n: n for n in shapes}
    def place(leaf: Any, name: str) -> NamedSharding:
      same = getattr(leaf, "shape", None) == shapes[name].shape
      return shardings[name] if same else self.replicated()
    return optax.tree.map_params(optimizer, place, abstract, names, transform_non_params=lambda _: self.replicated())


_active: contextvars.ContextVar[ShardingRules | None] = contextvars.ContextVar("sharding_rules", default=None)


@contextlib.contextmanager
def use(rules: ShardingRules | None) -> Iterator[None]:
  """While tracing under this, `constrain` pins activations by these rules."""
  token = _active.set(rules)
  try:
    yield
  finally:
    _active.reset(token)


def active() -> ShardingRules | None:
  """The rules in force where this is called, or None."""
  return _active.get()


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """`x` with its layout pinned by logical axis names; `x` itself when no rules are active or one device is used."""
  rules = _active.get()
  if rules is None or rules.mesh.size == 1:
    return x
  return jax.lax.with_sharding_constraint(x, rules.sharding(axes, x.shape, "activation"))
