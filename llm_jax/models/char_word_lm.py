"""A word language model that reads characters (Kim, Jernite, Sontag and Rush 2016).

Every word is the sequence of its characters: convolutions of several widths over their embeddings, tanh, the largest
value over the word (padding takes part), highway layers, then an LSTM over the words and scores of the next word.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.errors import ConfigError, check_counts
from llm_jax.core.model import Model
from llm_jax.core.output import Output
from llm_jax.core.sizes import chosen
from llm_jax.layers.convolution import Convolution, Highway
from llm_jax.layers.dropout import check_rate, split
from llm_jax.layers.embedding import Embedding
from llm_jax.layers.linear import Linear
from llm_jax.layers.recurrent import RecurrentStack, State, document_starts, uniform


@dataclasses.dataclass(frozen=True)
class CharWordConfig:
  """One network. filters: (width, number) of each convolution."""

  vocab_size: int
  characters: int = 256
  character_width: int = 15
  filters: tuple[tuple[int, int], ...] = tuple((w, 25 * w) for w in range(1, 7))
  highway: int = 1
  hidden: int = 300
  depth: int = 2
  dropout: float = 0.5
  init_limit: float = 0.05
  dtype: str = "float32"


# Kim et al. 2016, table 2.
VARIANTS: dict[str, dict[str, Any]] = {
    "debug": dict(filters=((1, 8), (2, 16), (3, 24)), hidden=64, depth=1, dropout=0.0),
    "small": {},
    "large": dict(filters=tuple((w, min(200, 50 * w)) for w in range(1, 8)), highway=2, hidden=650),
}


class CharWordLM(nnx.Module):
  """The network. Call it through `Model.apply`."""

  def __init__(self, rngs: nnx.Rngs, config: CharWordConfig):
    self.config, init = config, uniform(config.init_limit)
    self.characters = Embedding(rngs, config.characters, config.character_width, axis="positions",
                                dtype=jnp.dtype(config.dtype), init=init, padding=0)
    self.conv = nnx.List([Convolution(rngs, config.character_width, count, width, init=init)
                          for width, count in config.filters])
    width = sum(count for _, count in config.filters)
    self.highway = nnx.List([Highway(rngs, width, init=init) for _ in range(config.highway)])
    self.layers = RecurrentStack(rngs, width, config.hidden, config.depth, dropout=config.dropout, init=init)
    self.head = Linear(rngs, {"embed": config.hidden}, {"vocab": config.vocab_size}, init=init)

  def __call__(self, input_ids: jax.Array, *, attention_mask: jax.Array | None = None,
               position_ids: jax.Array | None = None, segment_ids: jax.Array | None = None,
               cache: State | None = None, key: jax.Array | None = None) -> Output:
    """input_ids (B, L, W): characters of every word, 0 behind its end; the other arguments as in models/lstm.py.

    extra['word_vectors'] (B, L, D) is what the LSTM reads.
    """
    layers_key, out_key = split(key, 2)
    valid_BL = attention_mask if segment_ids is None else segment_ids
    words_BLD = self.words(input_ids)
    x_BLD, cache = self.layers(words_BLD, cache, valid_BL=valid_BL, key=layers_key,
                               start_BL=document_starts(position_ids, segment_ids))
    return Output(self.layers.drop(x_BLD, out_key), unembed=self.head, cache=cache, extra={"word_vectors": words_BLD})

  def words(self, ids_BLW: jax.Array) -> jax.Array:
    """(B, L, W) -> (B, L, D)."""
    B, L, W = ids_BLW.shape
    x = self.characters(ids_BLW.reshape(B * L, W))
    y = jnp.concatenate([jnp.tanh(convolution(x)).max(1) for convolution in self.conv], axis=-1)
    for layer in self.highway:
      y = layer(y)
    return y.reshape(B, L, -1)

  def init_cache(self, batch: int, length: int) -> State:
    """The state before the first word."""
    return self.layers.start(batch)


def from_config(config: CharWordConfig) -> Model:
  """The model of this config.

  Raises:
    ConfigError: sizes that cannot be.
  """
  check_counts("config.model", characters=config.characters, hidden=config.hidden, depth=config.depth)
  check_rate(config.dropout)
  if not config.filters:
    raise ConfigError("config.model.filters", "no filters", accepted="(width, number) of each convolution")
  return Model.from_module(lambda rngs: CharWordLM(rngs, config), config, offers=("spelled", "carry"))


def build(vocab_size: int, length: int, *, variant: str = "small", characters: int = 256, hidden: int | None = None,
          depth: int | None = None, dropout: float | None = None,
          dtype: Literal["float32", "bfloat16"] = "float32") -> Model:
  """A language model over `vocab_size` words that reads their characters.

  Args:
    variant: published size: small or large; debug runs anywhere.
    characters: number of different characters; 256 for bytes.
    hidden: width of the LSTM; None takes the variant's, as for the next ones.
    depth: layers of the LSTM.
    dropout: rate on the input of every LSTM layer and of the head.
    dtype: compute type; parameters, state and loss stay float32.
  """
  sizes = chosen(VARIANTS, variant, hidden=hidden, depth=depth, dropout=dropout)
  return from_config(CharWordConfig(vocab_size=vocab_size, characters=characters, dtype=dtype, **sizes))
