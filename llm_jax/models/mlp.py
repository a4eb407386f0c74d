"""A small multi-layer perceptron: the network of the regression and few-shot studies."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.errors import ConfigError
from llm_jax.core.model import Model, parameter
from llm_jax.core.output import Output
from llm_jax.layers.feed_forward import activation
from llm_jax.layers.linear import Linear

Init = Literal["truncated_normal", "lecun", "he", "uniform"]


@dataclasses.dataclass(frozen=True)
class MLPConfig:
  """Widths and activation; no training settings."""

  inputs: int
  outputs: int
  hidden: tuple[int, ...]
  act: str
  init: Init
  scale: float
  context: int


class MLP(nnx.Module):
  """Call it through `Model.apply`. Layers are named layers.0, layers.1, ... and head."""

  def __init__(self, rngs: nnx.Rngs, config: MLPConfig):
    self.config = config
    widths = (config.inputs + config.context, *config.hidden)
    axes = ["embed", *("mlp" if i % 2 == 0 else "embed" for i in range(len(config.hidden)))]
    make = lambda i, name, size: Linear(rngs, {axes[i]: widths[i]}, {name: size}, init=_initializer(config))
    self.layers = nnx.List([make(i, axes[i + 1], widths[i + 1]) for i in range(len(config.hidden))])
    self.head = make(len(config.hidden), "labels", config.outputs)
    if config.init == "uniform":
      for layer, inputs in zip([*self.layers, self.head], widths, strict=True):
        (size,) = layer.outputs
        layer.bias = parameter(rngs, (size,), (None,), _uniform(inputs))
    self.context = (parameter(rngs, (config.context,), (None,), jax.nn.initializers.zeros) if config.context else None)

  def __call__(self, inputs: jax.Array, *, key: jax.Array | None = None) -> Output:
    """inputs (..., I) -> scores (..., O), and hidden (..., last width)."""
    x = inputs
    if self.context is not None:
      x = jnp.concatenate([x, jnp.broadcast_to(self.context[...], (*x.shape[:-1], self.config.context))], axis=-1)
    for layer in self.layers:
      x = activation(self.config.act)(layer(x))
    return Output(hidden=x, scores=self.head(x))


def _initializer(config: MLPConfig) -> jax.nn.initializers.Initializer:
  kinds = {"truncated_normal": jax.nn.initializers.truncated_normal(config.scale),
           "uniform": jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
           "lecun": jax.nn.initializers.lecun_normal(), "he": jax.nn.initializers.he_normal()}
  return kinds[config.init]


def _uniform(inputs: int) -> Callable[..., jax.Array]:
  """Uniform within 1 / sqrt(inputs)."""
  scaled = jax.nn.initializers.uniform(2 / inputs**0.5)
  return lambda key, shape, dtype=jnp.float32: scaled(key, shape, dtype) - inputs**-0.5


def build(vocab_size: int, length: int, *, inputs: int = 1, outputs: int = 1, hidden: tuple[int, ...] = (40, 40),
          act: str = "relu", init: Init = "truncated_normal", scale: float = 0.01, context: int = 0) -> Model:
  """A multi-layer perceptron.

  Args:
    inputs: width of an input.
    outputs: width of the scores.
    hidden: widths of the hidden layers.
    act: activation, by Hugging Face's names.
    init: of kernels: truncated_normal of deviation `scale` (Finn et al. 2017), lecun, he, or uniform within one over
      the root of the inputs, biases too (PyTorch's default).
    scale: see init.
    context: inputs that are parameters, zero at first: what CAVIA adapts.
  """
  for name, least, value in (("inputs", 1, inputs), ("outputs", 1, outputs), ("context", 0, context)):
    if value < least:
      raise ConfigError(f"config.model.{name}", f"got {value}", accepted=f"a whole number from {least}")
  activation(act, "config.model.act")
  config = MLPConfig(inputs, outputs, tuple(hidden), act, init, scale, context)
  return Model.from_module(lambda rngs: MLP(rngs, config), config, offers=("scores",))
