"""DeBERTa: version 1 and 2 (He et al. 2021) and the encoders of version 3 (He, Gao and Chen 2023).

A BERT-like encoder whose attention keeps content and relative positions apart (layers/disentangled_attention.py).
Version 2 adds log buckets, shared projections and a convolution beside the first layer. Absolute positions come in at
the end only, in the enhanced mask decoder: the last layer runs twice more, its queries starting from positions.
"""

import dataclasses
import functools
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llm_jax.core.model import Model, stack
from llm_jax.core.output import Output
from llm_jax.core.sizes import chosen, with_positions
from llm_jax.layers import encoder_heads
from llm_jax.layers import stack as layer_stack
from llm_jax.layers.attention import AttentionOptions
from llm_jax.layers.disentangled_attention import DisentangledAttention, DisentangledBlock, table_rows
from llm_jax.layers.dot_product import Implementation, Visibility
from llm_jax.layers.dropout import dropout, split
from llm_jax.layers.embedding import Embedding
from llm_jax.layers.encoder_heads import EncoderHead, MaskedTokenHead, Pooler, ReplacedTokenHead
from llm_jax.layers.feed_forward import FeedForward
from llm_jax.layers.linear import Init, Linear
from llm_jax.layers.norm import LayerNorm
from llm_jax.layers.side_convolution import SideConvolution
from llm_jax.models.deberta_config import VARIANTS, DebertaConfig, check
from llm_jax.parallel.rules import constrain


class Deberta(nnx.Module):
  """The network. Call it through `Model.apply`. own_table: whether it has a token table; table_init: its start."""

  def __init__(self, rngs: nnx.Rngs, config: DebertaConfig, *, own_table: bool = True, table_init: Init | None = None):
    c = self.config = config
    table = partial(Embedding, rngs, dtype=jnp.dtype(c.dtype))
    embed_width = c.embed_width or c.width
    self.tokens: Any = table(c.vocab_size, embed_width, init=table_init) if own_table else None
    absolute = c.biased_input or c.enhanced_decoder
    self.positions: Any = table(c.positions, embed_width, axis="positions") if absolute else None
    self.types = table(c.types, embed_width, axis="positions") if c.types else None
    self.embed_projection = None if embed_width == c.width else Linear(rngs, {"embed": embed_width}, {"width": c.width},
                                                                       bias=False)
    self.embed_norm = LayerNorm(rngs, c.width, epsilon=c.epsilon)
    self.relative = table(2 * c.rows, c.width, axis="positions") if c.relative else None
    self.relative_norm = LayerNorm(rngs, c.width, epsilon=c.epsilon) if c.relative_norm else None
    self.convolution = None if not c.convolution else SideConvolution(
        rngs, c.width, c.convolution, groups=c.convolution_groups, act=c.convolution_act, epsilon=c.epsilon,
        dropout=c.dropout)
    self.blocks = stack(lambda r: _block(r, c), c.depth, rngs)
    self.head: Any = MaskedTokenHead(rngs, c.width, embed_width, c.vocab_size, act=c.act, epsilon=c.epsilon,
                                tied=c.tied or not c.legacy) if c.head == "lm" else None
    rate = c.dropout if c.head_dropout is None else c.head_dropout
    self.pooler = Pooler(rngs, c.width, act=c.pooler_act, dropout=rate,
                         input_dropout=c.pooler_dropout) if c.head in ("sequence", "choice") else None
    self.replaced = ReplacedTokenHead(rngs, c.width, act=c.act, epsilon=c.epsilon) if c.head == "replaced" else None
    labels = encoder_heads.labels(c.head, c.labels)
    self.classifier = Linear(rngs, {"embed": c.width}, {"labels": labels}) if labels else None

  def __call__(self, input_ids: jax.Array, *, attention_mask: jax.Array | None = None,
               token_type_ids: jax.Array | None = None, position_ids: jax.Array | None = None,
               segment_ids: jax.Array | None = None, added_BLD: jax.Array | None = None, key: jax.Array | None = None,
               output_hidden_states: bool = False) -> Output:
    """input_ids (B, L), the other arrays too; with the head 'choice' they are (B, C, L) and the scores (B, C).

    attention_mask: 1 for real tokens. segment_ids: documents of a packed row, 0 is padding. position_ids: of absolute
    positions, where the model has them. added_BLD: added to the token embeddings (a table that two models share).
    """
    choices = input_ids.shape[:-1]
    def flat(a: Any) -> Any:
      return a if a is None else a.reshape(-1, a.shape[-1])
    input_ids, attention_mask, token_type_ids = flat(input_ids), flat(attention_mask), flat(token_type_ids)
    position_ids, segment_ids = flat(position_ids), flat(segment_ids)
    embed_key, layers_key, head_key = split(key, 3)
    inputs = self._prepare(input_ids, attention_mask, position_ids, segment_ids)
    x = self._embed(input_ids, token_type_ids, inputs, added_BLD, embed_key)
    x, states = self._layers(x, inputs, layers_key, output_hidden_states)
    output = Output(hidden=x, unembed=None if self.head is None else self.unembed, hidden_states=states)
    if self.replaced is not None:
      output.scores = self.replaced(x)
    if self.classifier is not None:
      token_rate = self.config.dropout if self.config.head == "token" else 0.0
      read = dropout(x, token_rate, head_key) if self.pooler is None else self.pooler(x, head_key)
      output.scores = self.classifier(read)
    if self.config.head == "choice":
      output.scores = output.logits.reshape(choices)
    return encoder_heads.span(output) if self.config.head == "question" else output

  def _prepare(self, input_ids, mask, position_ids, segment_ids) -> "Inputs":
    ids = segment_ids if mask is None else mask.astype(jnp.int32) * (1 if segment_ids is None else segment_ids)
    c, length = self.config, input_ids.shape[-1]
    # Padding sees nothing, which spreads its attention evenly over all keys, as Hugging Face has it.
    segments = None if ids is None else (jnp.where(ids > 0, ids, -1), ids)
    return Inputs(real=None if ids is None else ids > 0, visibility=Visibility(causal=False, segments=segments),
                  positions=jnp.arange(length)[None] if position_ids is None else position_ids,
                  rows=table_rows(length, c.rows, c.buckets, c.longest))

  def _embed(self, input_ids, token_type_ids, inputs: "Inputs", added, key) -> jax.Array:
    tables = ([] if self.tokens is None else [self.tokens(input_ids)]) + ([] if added is None else [added])
    x = functools.reduce(jnp.add, tables)
    if self.config.biased_input:
      x = x + self.positions(inputs.positions)
    if self.types is not None:
      x = x + self.types(jnp.zeros_like(input_ids) if token_type_ids is None else token_type_ids)
    x = self.embed_norm(x if self.embed_projection is None else self.embed_projection(x))
    x = x if inputs.real is None else x * inputs.real[..., None].astype(x.dtype)
    return constrain(dropout(x, self.config.dropout, key), "batch", "length", "width")

  def _layers(self, x, inputs: "Inputs", key, collect: bool) -> tuple[jax.Array, tuple[jax.Array, ...] | None]:
    """-> (final states, those before each layer and after the last if asked for)."""
    c, decoder = self.config, self.config.enhanced_decoder and self.head is not None
    table = None if self.relative is None else self.relative.embedding[...].astype(x.dtype)
    table = table if table is None or self.relative_norm is None else self.relative_norm(table)
    keys = None if key is None else jax.random.split(key, c.depth + 3)
    call = lambda block, x, layer, kind, key: block(x, inputs.visibility, table, inputs.rows, key=key)

    def run(x, start, stop):
      part = lambda tree: jax.tree.map(lambda a: a[start:stop], tree)
      x, kept = layer_stack.run(part(self.blocks), x, call, kinds=[None] * (stop - start), scan=c.scan, remat=c.remat,
                                per_layer=part(keys), collect=(lambda x: x) if collect else None)
      return x, () if kept is None else tuple(kept)
    states: tuple[jax.Array, ...] = ()
    first, last = 0, c.depth - 1 if decoder else c.depth
    if self.convolution is not None:
      before, (x, states), first = x, run(x, 0, 1), 1
      x = self.convolution(before, x, inputs.real, None if keys is None else keys[c.depth])
    if last > first:
      x, more = run(x, first, last)
      states += more
    if not decoder:
      return x, (*states, x) if collect else None
    if collect:
      final, more = run(x, last, c.depth)
      states += (*more, final)
    return self._decode(x, inputs, table, keys), states if collect else None

  def _decode(self, x, inputs: "Inputs", table, keys) -> jax.Array:
    """The enhanced mask decoder: the last layer twice, asking from positions, then from its own output."""
    block = jax.tree.map(lambda a: a[-1], self.blocks)
    query = x + self.positions(inputs.positions)
    for key in (None, None) if keys is None else keys[-2:]:
      query = block(x, inputs.visibility, table, inputs.rows, query, key)
    return query

  def unembed(self, hidden: jax.Array) -> jax.Array:
    """(..., D) -> (..., V) scores, through the head's transform."""
    return self.head(hidden, self.tokens.embedding[...])


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What the layers read: real (B, L) True where there is a token, None if everywhere; positions (B, L) or (1, L); rows
  (2 L - 1,) of the table of relative positions."""

  real: jax.Array | None
  visibility: Visibility
  positions: jax.Array
  rows: np.ndarray


def _block(rngs: nnx.Rngs, c: DebertaConfig) -> DisentangledBlock:
  attention = DisentangledAttention(rngs, c.width, c.heads, terms=c.terms, relative=c.relative, shared=c.shared,
                                    key_bias=c.form == "v2",
                                    options=AttentionOptions(dropout=c.attention_dropout, implementation=c.attention))
  return DisentangledBlock(rngs, c.width, attention, FeedForward(rngs, c.width, c.hidden, act=c.act),
                           epsilon=c.epsilon, dropout=c.dropout, split_remat=c.remat.startswith("split"))


def from_config(config: DebertaConfig) -> Model:
  """The model of this config.

  Raises:
    ConfigError: sizes that do not fit together, an unknown activation, term or remat policy.
  """
  check(config)
  return Model.from_module(lambda rngs: Deberta(rngs, config), config, offers=encoder_heads.OFFERS[config.head])


def build(vocab_size: int, length: int, *, variant: str = "v3-base", width: int | None = None, depth: int | None = None,
          heads: int | None = None, hidden: int | None = None, positions: int | None = None,
          enhanced_decoder: bool = True, head: EncoderHead = "lm", labels: int = 2, dropout: float = 0.0,
          dtype: Literal["float32", "bfloat16"] = "float32", remat: str = "none", scan: bool = True,
          attention: Implementation = "auto") -> Model:
  """A DeBERTa for `vocab_size` tokens and rows of `length`.

  Args:
    variant: published size: debug, base, large, xlarge, v2-xlarge, v2-xxlarge, v3-xsmall, v3-small, v3-base, v3-large.
    width: model width D; None takes the variant's, as for the next ones.
    depth: number of layers.
    heads: attention heads.
    hidden: feed-forward width.
    positions: longest sequence; at least the training length.
    enhanced_decoder: masked words are predicted by the mask decoder, which alone sees absolute positions; False
      predicts them from the last layer.
    head: lm (masked words), sequence, token, question, choice, replaced (was each token replaced?), none.
    labels: number of labels of a sequence or token head.
    dropout: rate on embeddings, residuals and attention weights.
    dtype: compute type; parameters, norms, softmax and loss stay float32.
    remat: what the backward pass recomputes: none, full, dots, dots_no_batch, offload_dots, split.
    scan: one compiled layer run in a loop; False unrolls (slower to compile, a few percent faster to run).
    attention: implementation behind the attention door; relative positions need 'auto' or 'xla'.
  """
  sizes = chosen(VARIANTS, variant, width=width, depth=depth, heads=heads, hidden=hidden)
  sizes = with_positions(sizes, length, positions)
  return from_config(DebertaConfig(vocab_size=vocab_size, enhanced_decoder=enhanced_decoder and head == "lm", head=head,
                                   labels=labels, dropout=dropout, attention_dropout=dropout, dtype=dtype, remat=remat,
                                   scan=scan, attention=attention, **sizes))
