"""LSTM and GRU language models with a carried state, and recurrent encoders that read in both directions.

A call takes the state as `cache` and returns the one after its last token, so that a text may come in pieces: to
generate, and to train on rows that continue the last step's (data packing 'stream'). Padding leaves the state alone and
a document's first token forgets it.
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
from llm_jax.layers.dropout import check_rate, split
from llm_jax.layers.embedding import Embedding
from llm_jax.layers.linear import Linear
from llm_jax.layers.recurrent import Cell, RecurrentStack, State, document_starts, uniform

Head = Literal["lm", "token", "sequence", "none"]
OFFERS = {"lm": ("causal", "carry"), "token": ("token_classes",), "sequence": ("classes",), "none": ()}


@dataclasses.dataclass(frozen=True)
class RecurrentConfig:
  """One recurrent network; widths and counts, no training settings."""

  vocab_size: int
  cell: Cell = "lstm"
  embedding: int = 200
  hidden: int = 200
  depth: int = 2
  bidirectional: bool = False
  tied: bool = False  # the head's matrix is the embedding's, transposed
  dropout: float = 0.0
  variational: bool = False
  state_dropout: float = 0.0
  word_dropout: float = 0.0
  init_limit: float = 0.1
  head: Head = "lm"
  labels: int = 2
  dtype: str = "float32"


def _width(width: int, depth: int = 2, **more: Any) -> dict[str, Any]:
  return dict(embedding=width, hidden=width, depth=depth) | more


# Zaremba et al. 2014, sections 4.1 and 5; Gal and Ghahramani 2016, section 5.1 (untied weights, sizes of Zaremba's).
VARIANTS: dict[str, dict[str, Any]] = {
    "debug": _width(64, 1),
    "zaremba-small": _width(200),
    "zaremba-medium": _width(650, dropout=0.5, init_limit=0.05),
    "zaremba-large": _width(1500, dropout=0.65, init_limit=0.04),
    "gal-medium": _width(650, dropout=0.5, variational=True, state_dropout=0.25, word_dropout=0.5, init_limit=0.05),
    "gal-large": _width(1500, dropout=0.75, variational=True, state_dropout=0.25, word_dropout=0.75, init_limit=0.04),
}


class Recurrent(nnx.Module):
  """The network. Call it through `Model.apply`."""

  def __init__(self, rngs: nnx.Rngs, config: RecurrentConfig):
    self.config, init = config, uniform(config.init_limit)
    self.tokens = Embedding(rngs, config.vocab_size, config.embedding, dtype=jnp.dtype(config.dtype), init=init)
    self.layers = RecurrentStack(rngs, config.embedding, config.hidden, config.depth, cell=config.cell,
                                 bidirectional=config.bidirectional, dropout=config.dropout,
                                 variational=config.variational, state_dropout=config.state_dropout, init=init)
    width = config.hidden * (2 if config.bidirectional else 1)
    outputs = {"lm": ("vocab", config.vocab_size), "token": ("labels", config.labels),
               "sequence": ("labels", config.labels)}.get(config.head)
    own = outputs is not None and not config.tied
    self.head = Linear(rngs, {"embed": width}, dict([outputs]), init=init) if own and outputs else None

  def __call__(self, input_ids: jax.Array, *, attention_mask: jax.Array | None = None,
               position_ids: jax.Array | None = None, segment_ids: jax.Array | None = None,
               cache: State | None = None, key: jax.Array | None = None) -> Output:
    """input_ids (B, L), the other arrays too. segment_ids: documents of a row, 0 is padding; where they are not given a
    position of 0 forgets the state. cache: the state to start from, see layers/recurrent.py."""
    word_key, layers_key, out_key = split(key, 3)
    valid_BL = attention_mask if segment_ids is None else segment_ids if attention_mask is None else (
        segment_ids * attention_mask)
    x_BLD = self._forget_words(self.tokens(input_ids), input_ids, word_key)
    x_BLD, cache = self.layers(x_BLD, cache, valid_BL=valid_BL, key=layers_key,
                               start_BL=document_starts(position_ids, segment_ids))
    hidden_BLD = self.layers.drop(x_BLD, out_key)
    if self.config.head == "token":
      return Output(hidden_BLD, scores=self.unembed(hidden_BLD), cache=cache)
    if self.config.head == "sequence":
      top = cache["h"][:, -self.layers.directions:]
      return Output(hidden_BLD, scores=self.unembed(top.reshape(len(top), -1).astype(x_BLD.dtype)), cache=cache)
    return Output(hidden_BLD, unembed=None if self.config.head == "none" else self.unembed, cache=cache)

  def _forget_words(self, x_BLD: jax.Array, ids_BL: jax.Array, key: jax.Array | None) -> jax.Array:
    """Drops words of the vocabulary for the whole row (Gal and Ghahramani 2016, section 4.2)."""
    rate = self.config.word_dropout
    if key is None or not rate:
      return x_BLD
    keep_BV = jax.random.bernoulli(key, 1.0 - rate, (len(ids_BL), self.config.vocab_size))
    return x_BLD * jnp.take_along_axis(keep_BV, ids_BL, axis=1)[..., None] / (1.0 - rate)

  def unembed(self, hidden: jax.Array) -> jax.Array:
    """(..., D) -> (..., V) scores of tokens, or of labels."""
    return self.tokens.attend(hidden) if self.head is None else self.head(hidden)

  def init_cache(self, batch: int, length: int) -> State:
    """The state before the first token; a text may be of any length."""
    return self.layers.start(batch)


def from_config(config: RecurrentConfig) -> Model:
  """The model of this config.

  Raises:
    ConfigError: sizes or settings that do not fit together.
  """
  check_counts("config.model", embedding=config.embedding, hidden=config.hidden, depth=config.depth)
  for name in ("dropout", "state_dropout", "word_dropout"):
    check_rate(getattr(config, name), f"config.model.{name}")
  if config.state_dropout and not config.variational:
    raise ConfigError("config.model.state_dropout", "a new mask at every token would forget everything",
                      accepted="variational=True, or state_dropout=0")
  if config.bidirectional and config.head == "lm":
    raise ConfigError("config.model.bidirectional", "a language model may not see the tokens that it predicts",
                      accepted="False, or head 'token', 'sequence' or 'none'")
  if config.tied and (config.head != "lm" or config.embedding != config.hidden):
    raise ConfigError("config.model.tied", f"an embedding of {config.embedding} is no head over {config.hidden}",
                      accepted="embedding equal to hidden, and head 'lm'")
  return Model.from_module(lambda rngs: Recurrent(rngs, config), config, offers=OFFERS[config.head])


def build(vocab_size: int, length: int, *, variant: str = "zaremba-small", cell: Literal["lstm", "gru"] = "lstm",
          embedding: int | None = None, hidden: int | None = None, depth: int | None = None,
          bidirectional: bool = False, tied: bool = False, dropout: float | None = None,
          variational: bool | None = None, state_dropout: float | None = None, word_dropout: float | None = None,
          init_limit: float | None = None, head: Literal["lm", "token", "sequence", "none"] = "lm", labels: int = 2,
          dtype: Literal["float32", "bfloat16"] = "float32") -> Model:
  """A recurrent network for `vocab_size` tokens; rows may have any length.

  Args:
    variant: published size: zaremba-small, -medium, -large (2014), gal-medium, -large (2016), or debug.
    cell: lstm or gru.
    embedding: width of the token embedding; None takes the variant's, as for the next ones.
    hidden: width of the state.
    depth: number of layers.
    bidirectional: every layer reads in both directions (encoders only).
    tied: share the token embedding with the output head, which then has no bias; embedding and hidden are equal.
    dropout: rate on the input of every layer and of the head; None takes the variant's, as for the next ones.
    variational: one dropout mask for all tokens of a row (Gal and Ghahramani 2016).
    state_dropout: rate on the state that the gates see, variational only.
    word_dropout: share of the vocabulary whose embeddings are dropped for a row.
    init_limit: weights start uniform between minus and plus this.
    head: lm, token (labels of tokens), sequence (labels of texts, by the last states), none.
    labels: number of labels.
    dtype: compute type; parameters, state and loss stay float32.
  """
  sizes = chosen(VARIANTS, variant, embedding=embedding, hidden=hidden, depth=depth, dropout=dropout,
                 variational=variational, state_dropout=state_dropout, word_dropout=word_dropout, init_limit=init_limit)
  return from_config(RecurrentConfig(vocab_size=vocab_size, cell=cell, bidirectional=bidirectional, tied=tied,
                                     head=head, labels=labels, dtype=dtype, **sizes))
