"""Character-level convolutional classifiers (Zhang, Zhao and LeCun 2015): small and large.

Characters are one-hot vectors, id 0 is all zeros (other characters, and padding). Six convolutions of widths 7, 7, 3,
3, 3, 3, pooling by 3 after the first, the second and the last, three linear layers with dropout between them.
"""

import dataclasses
import itertools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.errors import ConfigError, check_counts
from llm_jax.core.model import Model
from llm_jax.core.output import Output
from llm_jax.core.sizes import chosen
from llm_jax.layers.convolution import Convolution, max_pool
from llm_jax.layers.dropout import check_rate, dropout, split
from llm_jax.layers.linear import Linear, normal

WIDTHS, POOLED = (7, 7, 3, 3, 3, 3), (0, 1, 5)
LOST, POOLS = 96, 27  # characters that the convolutions cost a row, and what the pooling divides the rest by
SHORTEST = LOST + POOLS


@dataclasses.dataclass(frozen=True)
class CharCNNConfig:
  """One network. length: characters of a row, no more and no less."""

  alphabet: int = 70
  length: int = 1014
  features: int = 256
  hidden: int = 1024
  labels: int = 4
  dropout: float = 0.5
  deviation: float = 0.05  # of the first weights
  dtype: str = "float32"


# Zhang et al. 2015, tables 1 and 2.
VARIANTS: dict[str, dict[str, Any]] = {
    "debug": dict(features=24, hidden=48, dropout=0.1), "small": dict(features=256, hidden=1024, deviation=0.05),
    "large": dict(features=1024, hidden=2048, deviation=0.02),
}


class CharCNN(nnx.Module):
  """The network. Call it through `Model.apply`."""

  def __init__(self, rngs: nnx.Rngs, config: CharCNNConfig):
    self.config, init = config, normal(config.deviation)
    widths = [config.alphabet] + [config.features] * (len(WIDTHS) - 1)
    self.conv = nnx.List([Convolution(rngs, inputs, config.features, width, init=init)
                          for inputs, width in zip(widths, WIDTHS)])
    flat = config.features * ((config.length - LOST) // POOLS)
    sizes = (flat, config.hidden, config.hidden, config.labels)
    self.fc = nnx.List([Linear(rngs, {"embed": a}, {"labels" if i == 2 else "mlp": b}, init=init)
                        for i, (a, b) in enumerate(itertools.pairwise(sizes))])

  def __call__(self, input_ids: jax.Array, *, attention_mask: jax.Array | None = None,
               key: jax.Array | None = None) -> Output:
    """input_ids (B, L): characters counted from 1, 0 for none; attention_mask (B, L): 0 where there is none.

    Raises:
      ValueError: rows of another length than the network's.
    """
    if input_ids.shape[1] != self.config.length:
      raise ValueError(f"rows of {input_ids.shape[1]} characters; this network reads {self.config.length}")
    ids = input_ids if attention_mask is None else input_ids * (attention_mask > 0)
    x_BLD = jax.nn.one_hot(ids - 1, self.config.alphabet, dtype=jnp.dtype(self.config.dtype))
    for i, convolution in enumerate(self.conv):
      x_BLD = jax.nn.relu(convolution(x_BLD))
      x_BLD = max_pool(x_BLD, 3) if i in POOLED else x_BLD
    x_BF = x_BLD.swapaxes(1, 2).reshape(len(x_BLD), -1)  # by feature, then by place
    for linear, drop in zip(self.fc[:2], split(key, 2)):
      x_BF = dropout(jax.nn.relu(linear(x_BF)), self.config.dropout, drop)
    return Output(scores=self.fc[2](x_BF))


def from_config(config: CharCNNConfig) -> Model:
  """The model of this config.

  Raises:
    ConfigError: sizes that cannot be.
  """
  check_counts("config.model", alphabet=config.alphabet, features=config.features, hidden=config.hidden,
               labels=config.labels)
  check_rate(config.dropout)
  if config.length < SHORTEST:
    raise ConfigError("config.train.length", f"{config.length} characters leave nothing after six convolutions",
                      accepted=f"at least {SHORTEST}; published: 1014")
  return Model.from_module(lambda rngs: CharCNN(rngs, config), config, offers=("classes",))


def build(vocab_size: int, length: int, *, variant: str = "small", features: int | None = None,
          hidden: int | None = None, labels: int = 4, dropout: float | None = None,
          dtype: Literal["float32", "bfloat16"] = "float32") -> Model:
  """A classifier of rows of `length` characters; ids from 1 to `vocab_size` - 1 are characters.

  Args:
    variant: published size: small or large; debug runs anywhere.
    features: channels of the convolutions; None takes the variant's, as for the next ones.
    hidden: width of the linear layers.
    labels: number of labels.
    dropout: rate between the linear layers.
    dtype: compute type; parameters and loss stay float32.
  """
  sizes = chosen(VARIANTS, variant, features=features, hidden=hidden, dropout=dropout)
  return from_config(CharCNNConfig(alphabet=vocab_size - 1, length=length, labels=labels, dtype=dtype, **sizes))
