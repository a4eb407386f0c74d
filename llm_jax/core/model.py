"""From an NNX module to pure functions over a flat dict of named arrays: the only place where the two meet.

An `nnx.Module` is a pytree. Its abstract form (shapes, no arrays) is kept as a template, every leaf gets the dotted
name of its path, and `apply` puts the arrays back by exact name: never by position, so that a renamed or missing
parameter is an error and never a silent permutation.
"""

import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.held import held
from llm_jax.core.names import difference
from llm_jax.core.offers import offered
from llm_jax.core.types import Extra, Key, Params

# Beginnings of names of arrays that no network reads, see `Model.with_extras`.
EXTRA = ("meta.", "reference.", "reward.", "critic.")


class ParameterNamesError(KeyError):
  """The given parameters are not the model's: says which are missing and which are unexpected."""

  def __str__(self) -> str:
    return str(self.args[0])


@dataclasses.dataclass(frozen=True)
class Model:
  """A network as pure functions. Make one with `Model.from_module`.

  shapes: {name: ShapeDtypeStruct}; logical_axes: {name: one logical axis name or None per dimension}; stacked layers
  have 'layers' in front. config: the architecture's own frozen config dataclass. offers: what it can be trained for, in
  the words of core/offers.py. made_of: (method, base model) of one that a PEFT method made, see peft/adapted.py.
  contracted: {name: how many axes a product with inputs sums over} of stacked kernels, which are the first ones behind
  'layers'.
  """

  make: Callable[[nnx.Rngs], nnx.Module]
  config: Any
  shapes: dict[str, jax.ShapeDtypeStruct]
  logical_axes: dict[str, tuple[str | None, ...]]
  _names: tuple[str, ...]  # in the order of the template's leaves
  _treedef: Any
  extras: Mapping[str, Extra] = dataclasses.field(default_factory=dict)
  offers: frozenset[str] = frozenset()
  made_of: Any = None
  contracted: Mapping[str, int] = dataclasses.field(default_factory=dict)

  @staticmethod
  def from_module(make: Callable[[nnx.Rngs], nnx.Module], config: Any = None, *,
                  offers: Iterable[str] = ()) -> "Model":
    """Traces `make(nnx.Rngs)` once, abstractly; no array is allocated. offers: words of core/offers.py."""
    with held(_undrawn, True):
      template = jax.eval_shape(lambda key: make(nnx.Rngs(key)), jax.random.key(0))
    leaves, treedef = jax.tree_util.tree_flatten_with_path(template)
    names = tuple(_dotted(path) for path, _ in leaves)
    if len(set(names)) != len(names):
      raise ValueError("two parameters have the same dotted name")
    shapes = {n: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for n, (_, leaf) in zip(names, leaves)}
    metadata = {".".join(map(str, path)): v.get_metadata() for path, v in nnx.iter_graph(template)
                if isinstance(v, nnx.Variable)}
    axes = {n: _full_axes(n, metadata.get(n, {}).get("axes"), shapes[n].ndim) for n in names}
    return Model(make, config, dict(sorted(shapes.items())), dict(sorted(axes.items())), names, treedef,
                 offers=offered(offers),
                 contracted={n: m["contracted"] for n, m in metadata.items() if "contracted" in m})

  def init(self, key: Key) -> Params:
    """Fresh parameters, float32. Jittable, so that `jax.jit(model.init, out_shardings=...)` makes them sharded."""
    leaves = jax.tree_util.tree_leaves(self.make(nnx.Rngs(key)))
    extra = {n: e.init(jax.random.fold_in(key, i)) for i, (n, e) in enumerate(sorted(self.extras.items()), 1)}
    return dict(sorted([*zip(self._names, leaves), *extra.items()]))

  def with_extras(self, extras: Mapping[str, Extra]) -> "Model":
    """This model with further named arrays, which are made, sharded, trained and saved as its own and which the network
    itself does not read (rates and weights that a meta-learner trains)."""
    shapes = {n: jax.ShapeDtypeStruct(e.shape, jnp.float32) for n, e in extras.items()}
    if taken := self.shapes.keys() & shapes.keys():
      raise ValueError(f"the model has parameters of these names already: {sorted(taken)}")
    axes = {n: e.axes for n, e in extras.items()}
    return dataclasses.replace(self, shapes=dict(sorted({**self.shapes, **shapes}.items())),
                               logical_axes=dict(sorted({**self.logical_axes, **axes}.items())),
                               extras={**self.extras, **extras})

  def bind(self, params: Mapping[str, jax.Array]) -> Any:
    """The NNX module with these arrays in place.

    Raises:
      ParameterNamesError: the names are not exactly the model's.
    """
    if params.keys() != self.shapes.keys():
      raise ParameterNamesError(f"these are not the model's parameters: {difference(params, self.shapes)}")
    return self._treedef.unflatten([params[n] for n in self._names])

  def apply(self, params: Mapping[str, jax.Array], *args: Any, method: str = "__call__", key: Key | None = None,
            **kwargs: Any) -> Any:
    """Calls the network: `model.apply(params, input_ids=ids_BL, attention_mask=mask_BL)`.

    key: random key for dropout; None means deterministic. method: another method of the module.
    """
    if key is not None:
      kwargs["key"] = key
    return getattr(self.bind(params), method)(*args, **kwargs)

  @property
  def size(self) -> int:
    """Number of parameters."""
    return sum(s.size for s in self.shapes.values())


def _dotted(path: tuple) -> str:
  parts = [str(getattr(p, "name", getattr(p, "idx", getattr(p, "key", p)))) for p in path]
  return ".".join(parts[:-1] if parts[-1] == "value" else parts)


def _full_axes(name: str, axes: tuple | None, ndim: int) -> tuple[str | None, ...]:
  """The declared logical axes with 'layers' for each stacked dimension in front."""
  if axes is None or len(axes) > ndim:
    raise ValueError(f"parameter {name} declares axes {axes} but has {ndim} dimensions")
  return ("layers",) * (ndim - len(axes)) + tuple(axes)


_stacked: contextvars.ContextVar[tuple[int, ...]] = contextvars.ContextVar("stacked", default=())
# While it holds, `parameter` draws nothing: to trace the initializers takes half of a model's building.
_undrawn: contextvars.ContextVar[bool] = contextvars.ContextVar("undrawn", default=False)


def parameter(rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str | None, ...],
              init: Callable[..., jax.Array], contracted: int = 0) -> nnx.Param:
  """A float32 parameter with one logical axis name per dimension; `init` as in jax.nn.initializers.

  contracted: of a kernel that inputs are multiplied by, how many axes, the first ones, are summed over.

  Inside `stack` the array has the layers in front: drawn at once by an initializer that looks at no shape
  (`elementwise`), which compiles three times as fast as a vmap, and layer by layer by any other.
  """
  if len(shape) != len(axes):
    raise ValueError(f"shape {shape} has {len(shape)} dimensions, axes {axes} name {len(axes)}")
  lead = _stacked.get()
  said: dict[str, Any] = dict(axes=axes) | (dict(contracted=contracted) if contracted and len(lead) == 1 else {})
  if _undrawn.get():
    return nnx.Param(jnp.zeros((*lead, *shape), jnp.float32), **said)
  key = rngs.params()
  if lead and not getattr(init, "elementwise", False):
    draw = lambda key: init(key, shape, jnp.float32)
    keys = jax.random.split(key, math.prod(lead))
    return nnx.Param(jax.vmap(draw)(keys).reshape(*lead, *shape), **said)
  return nnx.Param(init(key, (*lead, *shape), jnp.float32), **said)


def elementwise_normal(deviation: float) -> Callable[..., jax.Array]:
  """The initializer N(0, deviation^2), marked as one that looks at no shape."""
  def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    return deviation * jax.random.normal(key, shape, dtype)
  init.elementwise = True  # type: ignore[attr-defined]
  return init


def stack(make: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> Any:
  """`count` modules of one structure as a single module whose leaves have a leading axis of that length.

  `make` runs once whatever the count, so that compile time does not grow with depth.
  """
  with held(_stacked, (*_stacked.get(), count)):
    return make(nnx.Rngs(rngs.params()))
