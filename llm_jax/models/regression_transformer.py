"""A decoder that reads points, not tokens: x_1, y_1, x_2, y_2, ... through linear maps, one number out (Garg et al.
2022, appendix A). The prediction of y_i is read at x_i, so that it sees every earlier point and not its own answer."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.errors import ConfigError
from llm_jax.core.model import Model, stack
from llm_jax.core.output import Output
from llm_jax.core.sizes import chosen
from llm_jax.layers import stack as layer_stack
from llm_jax.layers.attention import Attention
from llm_jax.layers.block import Block
from llm_jax.layers.dot_product import Visibility
from llm_jax.layers.embedding import Embedding
from llm_jax.layers.feed_forward import FeedForward
from llm_jax.layers.linear import Linear, normal
from llm_jax.layers.norm import LayerNorm


@dataclasses.dataclass(frozen=True)
class RegressionTransformerConfig:
  """Widths and counts; no training settings."""

  inputs: int
  positions: int
  width: int
  depth: int
  heads: int

  @property
  def windows(self) -> tuple[None, ...]:
    """Every query sees all that came before it."""
    return (None,) * self.depth


# Garg et al.'s released sizes.
VARIANTS = {"tiny": dict(width=64, depth=3, heads=2), "small": dict(width=128, depth=6, heads=4),
            "standard": dict(width=256, depth=12, heads=8)}
# Uniform within 1 / sqrt(inputs), as the released code leaves its two outer maps. From a deviation of 0.02, as inside,
# points are no larger than positions, and 6,000 steps at 8 dimensions stay above an error of 0.89.
OUTER = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class RegressionTransformer(nnx.Module):
  """Call it through `Model.apply`."""

  def __init__(self, rngs: nnx.Rngs, config: RegressionTransformerConfig):
    self.config = config
    self.read_in = Linear(rngs, {"labels": config.inputs}, {"embed": config.width}, init=OUTER)
    self.positions = Embedding(rngs, config.positions, config.width, axis="positions")
    self.blocks = stack(lambda r: _block(r, config), config.depth, rngs)
    self.final_norm = LayerNorm(rngs, config.width)
    self.read_out = Linear(rngs, {"embed": config.width}, {"labels": 1}, init=OUTER)

  def __call__(self, inputs: jax.Array, targets: jax.Array, *, key: jax.Array | None = None) -> Output:
    """inputs (B, L, I) points, targets (B, L) -> scores (B, L): the prediction of each target before it is seen."""
    B, L, width = inputs.shape
    answers = jnp.pad(targets[..., None], ((0, 0), (0, 0), (0, width - 1)))
    points = jnp.stack([inputs, answers], axis=2).reshape(B, 2 * L, width)
    x = self.read_in(points) + self.positions(jnp.broadcast_to(jnp.arange(2 * L), (B, 2 * L)))
    x, _ = layer_stack.run(self.blocks, x, lambda block, x, *_: block(x, Visibility())[0],
                           kinds=self.config.windows, rows=())
    x = self.final_norm(x)
    return Output(hidden=x, scores=self.read_out(x)[:, ::2, 0])


def _block(rngs: nnx.Rngs, c: RegressionTransformerConfig) -> Block:
  residual = normal(0.02 / (2 * c.depth) ** 0.5)
  attention = Attention(rngs, c.width, c.heads, c.width // c.heads, out_init=residual)
  feed_forward = FeedForward(rngs, c.width, 4 * c.width, act="gelu_new", out_init=residual)
  return Block(partial(LayerNorm, rngs, c.width), attention, feed_forward)


def build(vocab_size: int, length: int, *, inputs: int = 20, variant: str = "tiny", width: int | None = None,
          depth: int | None = None, heads: int | None = None) -> Model:
  """A transformer over prompts of `length` points.

  Args:
    inputs: width of a point, as config.data.dimensions.
    variant: published size: tiny, small or standard.
    width: model width D; None takes the variant's, as for the next ones.
    depth: number of layers.
    heads: attention heads.
  """
  sizes = chosen(VARIANTS, variant, width=width, depth=depth, heads=heads)
  config = RegressionTransformerConfig(inputs=inputs, positions=2 * length, **sizes)
  if config.width % config.heads:
    raise ConfigError("config.model.heads", f"{config.heads} heads do not divide width {config.width}",
                      accepted=f"a divisor of {config.width}")
  return Model.from_module(lambda rngs: RegressionTransformer(rngs, config), config, offers=("prompts",))
