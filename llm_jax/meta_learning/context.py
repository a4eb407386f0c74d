"""What a learner is handed when it is built: the parameters that are trained, and how tasks and arrays are laid out."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from llm_jax.core.names import select
from llm_jax.core.types import Params

MapTasks = Callable[[Callable[..., Any], Any], Callable[..., Any]]
KEY = "config.meta_learning"


def _vmap(function: Callable[..., Any], in_axes: Any) -> Callable[..., Any]:
  return jax.vmap(function, in_axes)


@dataclasses.dataclass(frozen=True)
class Context:
  """shapes: trained parameters; axes: their logical axes; map_tasks: `jax.vmap(function, in_axes)` over tasks, split
  over the mesh if there is one; place: pins arrays with the names of parameters to the layout of those."""

  shapes: Mapping[str, jax.ShapeDtypeStruct]
  axes: Mapping[str, tuple[str | None, ...]]
  map_tasks: MapTasks = _vmap
  place: Callable[[Params], Params] = lambda params: params

  def adapted(self, pattern: str | None) -> frozenset[str]:
    """The names that a regular expression picks for the inner loop; None picks all.

    Raises:
      ConfigError: the pattern takes no trained parameter.
    """
    return frozenset(self.shapes if pattern is None else select(self.shapes, pattern, f"{KEY}.adapt"))
