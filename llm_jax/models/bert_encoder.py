"""The encoder that BERT, RoBERTa, DistilBERT, ELECTRA and ERNIE share: its config, its embeddings, its layers."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.errors import ConfigError, check_counts
from llm_jax.core.model import stack
from llm_jax.core.sizes import with_positions
from llm_jax.layers import stack as layer_stack
from llm_jax.layers.attention import Attention, AttentionOptions
from llm_jax.layers.block import Block
from llm_jax.layers.dot_product import Implementation, Visibility
from llm_jax.layers.dropout import check_rate, dropout
from llm_jax.layers.embedding import Embedding, untrained
from llm_jax.layers.encoder_heads import EncoderHead
from llm_jax.layers.feed_forward import FeedForward, activation
from llm_jax.layers.linear import Linear
from llm_jax.layers.norm import LayerNorm
from llm_jax.parallel.rules import constrain


@dataclasses.dataclass(frozen=True)
class BertConfig:
  """One architecture of the family; widths and counts, no training settings."""

  vocab_size: int
  family: str = "bert"  # whose Hugging Face class it is: bert, roberta, distilbert, electra, ernie
  positions: int = 512  # rows of the position table
  width: int = 768
  embed_width: int | None = None  # of the embeddings, projected to `width` when it is another (ELECTRA); None: width
  depth: int = 12
  heads: int = 12
  hidden: int = 3072
  token_types: int = 2  # 0: none (DistilBERT)
  task_types: int = 0  # ERNIE 2.0
  counts_real: bool = False  # positions count what is not pad_token, from pad_token + 1 on (RoBERTa)
  act: str = "gelu"
  head_act: str | None = None  # of the masked token head; None: act
  pooler_act: str = "tanh"
  pooled: bool = True  # the bare encoder has a pooler
  epsilon: float = 1e-12
  dropout: float = 0.0  # of embeddings and residuals
  attention_dropout: float = 0.0
  classifier_dropout: float | None = None  # None: dropout
  question_dropout: float = 0.0
  drop_first_token: bool = False  # the dropout of classifiers acts before the pooler too (RoBERTa, ELECTRA)
  tied: bool = True
  head: EncoderHead = "lm"
  labels: int = 2
  pad_token: int | None = None  # its row of the table is not trained by being read
  carried: str = "{}"  # JSON of config.json keys that change no number (token ids, names of labels)
  dtype: str = "float32"
  remat: str = "none"
  scan: bool = True
  attention: Implementation = "auto"


class Embeddings(nnx.Module):
  """Tokens, positions and types, summed and normed: ids (B, L) -> (B, L, E)."""

  def __init__(self, rngs: nnx.Rngs, c: BertConfig):
    width, dtype = c.embed_width or c.width, jnp.dtype(c.dtype)
    self.pad_token, self.counts_real, self.dropout = c.pad_token, c.counts_real, c.dropout
    self.tokens = Embedding(rngs, c.vocab_size, width, dtype=dtype, padding=c.pad_token)
    self.positions = Embedding(rngs, c.positions, width, axis="positions", dtype=dtype)
    self.token_types = Embedding(rngs, c.token_types, width, axis="labels", dtype=dtype) if c.token_types else None
    self.task_types = Embedding(rngs, c.task_types, width, axis="labels", dtype=dtype) if c.task_types else None
    self.norm = LayerNorm(rngs, width, epsilon=c.epsilon)

  def __call__(self, input_ids: jax.Array, token_type_ids: jax.Array | None, task_type_ids: jax.Array | None,
               position_ids: jax.Array | None, key: jax.Array | None) -> jax.Array:
    x = self.tokens(input_ids) + self._positions(input_ids, position_ids)
    for table, ids in ((self.token_types, token_type_ids), (self.task_types, task_type_ids)):
      x = x if table is None else x + table(jnp.zeros_like(input_ids) if ids is None else ids)
    return constrain(dropout(self.norm(x), self.dropout, key), "batch", "length", "width")

  def _positions(self, input_ids: jax.Array, position_ids: jax.Array | None) -> jax.Array:
    if not self.counts_real or self.pad_token is None:
      default = jnp.broadcast_to(jnp.arange(input_ids.shape[-1]), input_ids.shape)
      return self.positions(default if position_ids is None else position_ids)
    if position_ids is not None:
      return self.positions(position_ids + self.pad_token + 1)
    real = (input_ids != self.pad_token).astype(jnp.int32)
    return untrained(self.positions(jnp.cumsum(real, -1) * real + self.pad_token), real == 0)


class Encoder(nnx.Module):
  """The layers: embeddings (B, L, E) -> (B, L, D), with a projection in front where the widths differ."""

  def __init__(self, rngs: nnx.Rngs, c: BertConfig):
    self.config = c
    narrow = c.embed_width or c.width
    self.project = None if narrow == c.width else Linear(rngs, {"table_embed": narrow}, {"embed": c.width})
    self.blocks = stack(lambda r: _block(r, c), c.depth, rngs)

  def __call__(self, x_BLE: jax.Array, attention_mask: jax.Array | None, segment_ids: jax.Array | None,
               key: jax.Array | None, collect: bool) -> tuple[jax.Array, tuple[jax.Array, ...] | None]:
    """-> (hidden, its states before each layer and after the last, when `collect`)."""
    c = self.config
    x = x_BLE if self.project is None else self.project(x_BLE)

    def call(block, x, layer, kind, key, segments):
      return block(x, Visibility(causal=False, segments=segments or None), key=key)[0]
    keys = None if key is None else jax.random.split(key, c.depth)
    x, kept = layer_stack.run(self.blocks, x, call, kinds=[None] * c.depth, scan=c.scan, remat=c.remat, per_layer=keys,
                              rows=visible(attention_mask, segment_ids) or (),
                              collect=(lambda x: x) if collect else None)
    return x, None if kept is None else (*kept, x)


def visible(attention_mask: jax.Array | None, segment_ids: jax.Array | None) -> tuple[jax.Array, jax.Array] | None:
  """(ids of queries, ids of keys) for `Visibility`: keys are real tokens of the query's document; padded queries see
  what their row's tokens see, as Hugging Face has it."""
  if attention_mask is None:
    return None if segment_ids is None else (segment_ids, segment_ids)
  queries = jnp.ones_like(attention_mask) if segment_ids is None else segment_ids
  return queries.astype(jnp.int32), jnp.where(attention_mask > 0, queries, -1).astype(jnp.int32)


def _block(rngs: nnx.Rngs, c: BertConfig) -> Block:
  attention = Attention(rngs, c.width, c.heads, c.width // c.heads,
                        options=AttentionOptions(dropout=c.attention_dropout, implementation=c.attention))
  return Block(partial(LayerNorm, rngs, c.width, epsilon=c.epsilon), attention,
               FeedForward(rngs, c.width, c.hidden, act=c.act), norms="post", dropout=c.dropout,
               remat=c.remat)


def check(config: BertConfig) -> BertConfig:
  """`config` if its sizes fit together.

  Raises:
    ConfigError: they do not, or an activation or remat policy is unknown.
  """
  check_counts("config.model", width=config.width, depth=config.depth, heads=config.heads, hidden=config.hidden,
               positions=config.positions, embed_width=config.embed_width, labels=config.labels)
  check_rate(config.dropout)
  if config.width % config.heads:
    raise ConfigError("config.model.heads", f"{config.heads} heads do not divide width {config.width}",
                      accepted=f"a divisor of {config.width}")
  if config.counts_real and config.pad_token is None:
    raise ConfigError("config.model.pad_token", "None, but positions are counted from it", accepted="a token's id")
  activation(config.act, "config.model.act")
  layer_stack.check_policy(config.remat)
  return config


def sized(sizes: dict[str, Any], length: int, positions: int | None) -> dict[str, Any]:
  """`sizes` with a position table for rows of `length`.

  Raises:
    ConfigError: `positions` rows are too few.
  """
  first = sizes["pad_token"] + 1 if sizes.get("counts_real") else 0
  return with_positions(sizes, length, positions, first=first)
