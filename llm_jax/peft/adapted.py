"""What a PEFT method is: a way from a model to a model, and the names that are trained afterwards."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from flax import nnx

from llm_jax.core.model import Model
from llm_jax.core.names import select
from llm_jax.layers.linear import Linear

KEY = "config.peft"
Arrays = Mapping[str, jax.Array]
Wrap = Callable[[nnx.Rngs, Linear, str], Linear | None]


@dataclasses.dataclass(frozen=True)
class Method:
  """change: model -> model with more parameters, the same function at initialisation where the method can be; the old
  parameters keep their names. freeze: regular expression of what is not trained. merge: parameters of the adapted
  model -> parameters of the old model that compute the same; None where none do. name, knobs: of the plug-in, as a
  config says them. start: parameters of the adapted model -> the same where new arrays follow from the base's (weights
  that were loaded into it). updates: (optimizer, updates of the run) -> the optimizer that also does what the method
  does after every update, with its state in the optimizer's; None: nothing."""

  change: Callable[[Model], Model]
  freeze: str
  merge: Callable[[Arrays], dict[str, Any]] | None
  name: str = ""
  knobs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  start: Callable[[Arrays], dict[str, Any]] = dict
  updates: Callable[[optax.GradientTransformation, int], optax.GradientTransformation] | None = None

  def adapt(self, model: Model) -> Model:
    """The adapted model, which knows what it was made of."""
    return dataclasses.replace(self.change(model), made_of=(self, model))


def frozen_but(trained: str, train: str | None = None) -> str:
  """The pattern of everything that neither of these patterns takes."""
  return rf"^(?!meta\.)(?!.*({trained}{'' if train is None else '|' + train}))"


def become(module: Any, kind: type) -> Any:
  """`module`, now of `kind`, a subclass of its class: it keeps its arrays, their names and its place in the network."""
  if not issubclass(kind, type(module)):
    raise TypeError(f"{kind.__name__} is no {type(module).__name__}")
  module.__class__ = kind
  return module


@functools.cache
def with_calls(calls: type, network: type) -> type:
  """The class of a network whose calls are those of `calls`, whose `super()` is the network's own class."""
  return type(network)(f"{calls.__name__}{network.__name__}", (calls, network), {})


def check_train(model: Model, train: str | None) -> None:
  """Raises:
    ConfigError: the pattern of further parameters takes nothing.
  """
  if train is not None:
    select(model.shapes, train, f"{KEY}.train")


def replace_linears(model: Model, targets: str, wrap: Wrap) -> Model:
  """`model` with wrap(rngs, linear, name) in place of each linear map whose name `targets` takes; None leaves it.

  Raises:
    ConfigError: the pattern takes nothing.
  """
  def make(rngs: nnx.Rngs) -> Any:
    module: Any = model.make(rngs)
    maps = _linears(module)
    for name in sorted(select(maps, targets, f"{KEY}.targets")):
      parent: Any = module
      *above, last = maps[name]
      for part in above:
        parent = _child(parent, part)
      new = wrap(rngs, _child(parent, last), name)
      if new is None:
        continue
      if isinstance(last, int):
        parent[last] = new
      else:
        setattr(parent, str(last), new)
    return module
  return Model.from_module(make, model.config, offers=model.offers)


def _linears(module: Any) -> dict[str, tuple]:
  return {".".join(map(str, path)): path for path, node in nnx.iter_graph(module) if isinstance(node, Linear)}


def _child(node: Any, part: Any) -> Any:
  return node[part] if isinstance(part, int) else getattr(node, part)


def axes_of_linears(model: Model) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
  """{name of a linear map: sizes of its input axes, sizes of its output axes}, of one layer of a stack."""
  module = jax.eval_shape(lambda key: model.make(nnx.Rngs(key)), jax.random.key(0))
  return {".".join(map(str, path)): (node.inputs, node.outputs) for path, node in nnx.iter_graph(module)
          if isinstance(node, Linear)}


def take_over(new: Linear, base: Linear) -> tuple[tuple[str | None, ...], int, tuple[int, ...]]:
  """Gives a linear map the arrays and sizes of the one whose place it takes: W and the bias keep their names.

  -> (logical axes of one layer's kernel, how many of them are inputs, the leading layer axes).
  """
  new.inputs, new.outputs, new.axes = base.inputs, base.outputs, base.axes
  new.kernel, new.bias = base.kernel, base.bias
  return base.kernel.get_metadata()["axes"], len(base.inputs), stacked(base)


def stacked(base: Linear) -> tuple[int, ...]:
  """The leading layer axes of a linear map's kernel."""
  return base.kernel.shape[: len(base.kernel.shape) - len(base.inputs) - len(base.outputs)]
