"""ERNIE with knowledge (Zhang et al. 2019, Tsinghua): a BERT whose upper layers mix in vectors of a knowledge graph.

Tokens that name an entity carry its vector (TransE, not trained here) in a second stream. Pre-training predicts masked
tokens, the next sentence, and which of the text's entities each mention means while some alignments are wrong or gone
(denoising entity auto-encoder). Not to be confused with Baidu's ERNIE, which is a BERT with task types.
"""

import itertools
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.errors import ConfigError
from llm_jax.core.model import Model, stack
from llm_jax.core.output import Output
from llm_jax.core.sizes import chosen, with_positions
from llm_jax.layers import stack as layer_stack
from llm_jax.layers.attention import Attention, AttentionOptions
from llm_jax.layers.attention_call import NEGATIVE
from llm_jax.layers.block import Block
from llm_jax.layers.dot_product import Implementation, Visibility
from llm_jax.layers.dropout import dropout, split
from llm_jax.layers.embedding import Embedding
from llm_jax.layers.encoder_heads import MaskedTokenHead, Pooler
from llm_jax.layers.feed_forward import FeedForward
from llm_jax.layers.knowledge_fusion import EntityHead, FusionBlock
from llm_jax.layers.linear import Linear
from llm_jax.layers.norm import LayerNorm
from llm_jax.models.bert_encoder import visible
from llm_jax.models.ernie_knowledge_config import (
  KINDS,
  OFFERS,
  VARIANTS,
  ErnieKnowledgeConfig,
  Head,
  check,
)
from llm_jax.parallel.rules import constrain


class ErnieKnowledge(nnx.Module):
  """The network. Call it through `Model.apply`."""

  def __init__(self, rngs: nnx.Rngs, config: ErnieKnowledgeConfig):
    c = self.config = config
    table = partial(Embedding, rngs, dtype=jnp.dtype(c.dtype))
    self.tokens = table(c.vocab_size, c.width)
    self.positions, self.types = table(c.positions, c.width, axis="positions"), table(c.types, c.width, axis="labels")
    self.embed_norm = LayerNorm(rngs, c.width, epsilon=c.epsilon)
    count = {kind: c.layers.count(kind) for kind in KINDS}
    self.sim = stack(lambda r: _token_block(r, c), count["sim"], rngs) if count["sim"] else None
    self.mix = stack(lambda r: _fusion_block(r, c, 0), count["mix"], rngs) if count["mix"] else None
    self.norm = stack(lambda r: _fusion_block(r, c, c.entity_heads), count["norm"], rngs) if count["norm"] else None
    pretrains = c.head == "pretraining"
    head = partial(MaskedTokenHead, rngs, c.width, act=c.act, epsilon=c.epsilon)
    self.head: Any = head(c.width, c.vocab_size, tied=c.tied) if pretrains else None
    self.entity_head: Any = EntityHead(rngs, c.width, c.entity_width, act=c.act,
                                  epsilon=c.epsilon) if pretrains else None
    self.pooler = Pooler(rngs, c.width, dropout=c.dropout if c.head == "sequence" else 0.0)
    labels = 2 if pretrains else c.labels
    self.classifier: Any = None if c.head == "none" else Linear(rngs, {"embed": c.width}, {"labels": labels})

  def __call__(self, input_ids: jax.Array, *, attention_mask: jax.Array | None = None,
               token_type_ids: jax.Array | None = None, position_ids: jax.Array | None = None,
               segment_ids: jax.Array | None = None, entity_vectors: jax.Array | None = None,
               entity_mask: jax.Array | None = None, entity_alignment: jax.Array | None = None,
               candidates: jax.Array | None = None, key: jax.Array | None = None,
               output_hidden_states: bool = False) -> Output:
    """input_ids (B, L), attention_mask, token_type_ids, position_ids and segment_ids too.

    entity_vectors: (B, E, W) of the entities of each row; none: the row has none. entity_mask: (B, E) 1 for an entity,
    0 for an empty slot. entity_alignment: (B, L) the slot of the entity that a token names, -1 for none. candidates:
    (C, W) that entity_logits (B, L, C) score, the batch's in the released code; without them they are (B, L, E) scores
    of the row's own entities (Zhang et al. 2019, equation 5), very low at empty slots.
    """
    B, L = input_ids.shape
    if entity_vectors is None or entity_alignment is None:
      entity_vectors = jnp.zeros((B, 1, self.config.entity_width)) if entity_vectors is None else entity_vectors
      entity_alignment = jnp.full((B, L), -1)
    self._check(entity_vectors)
    entity_vectors = entity_vectors.astype(self.tokens.dtype)
    embed_key, layers_key, head_key = split(key, 3)
    w = self._embed(input_ids, token_type_ids, position_ids, embed_key)
    aligned = entity_alignment >= 0
    e = jnp.take_along_axis(entity_vectors, jnp.maximum(entity_alignment, 0)[..., None], axis=1) * aligned[..., None]
    documents = jnp.ones((B, L), jnp.int32) if segment_ids is None else segment_ids
    seen = (Visibility(causal=False, segments=visible(attention_mask, segment_ids)),
            Visibility(causal=False, segments=(documents, jnp.where(aligned, documents, -1))))
    w, e, states = self._layers(w, e, aligned, seen, layers_key, output_hidden_states)
    output = Output(w, hidden_states=states, extra={"entity_states": e})
    if candidates is None:
      mask = None if entity_mask is None else entity_mask[:, None]
    else:
      entity_vectors, mask = candidates.astype(w.dtype), None
    return self._head(output, entity_vectors, mask, head_key)

  def _check(self, entity_vectors: jax.Array) -> None:
    if entity_vectors.shape[-1] != self.config.entity_width:
      raise ConfigError("config.model.entity_width", f"{self.config.entity_width}, but the data's entities have "
                        f"vectors of {entity_vectors.shape[-1]}", accepted=f"{entity_vectors.shape[-1]}")

  def _embed(self, input_ids, token_type_ids, position_ids, key) -> jax.Array:
    place = jnp.arange(input_ids.shape[1])[None] if position_ids is None else position_ids
    kind = jnp.zeros_like(input_ids) if token_type_ids is None else token_type_ids
    x = self.embed_norm(self.tokens(input_ids) + self.positions(place) + self.types(kind))
    return constrain(dropout(x, self.config.dropout, key), "batch", "length", "width")

  def _layers(self, w, e, aligned, seen, key, collect: bool):
    """-> (tokens, entities, tokens before each layer and after the last if asked for): runs of equal layers scanned."""
    c, states, start = self.config, (), dict.fromkeys(KINDS, 0)
    keys = None if key is None else jax.random.split(key, len(c.layers))
    place = 0

    def call(block, carry, layer, kind, key):
      if kind == "sim":
        return block(carry[0], seen[0], key=key)[0], carry[1]
      return block(*carry, aligned, *seen, key)
    for kind, run in itertools.groupby(c.layers):
      count = len(list(run))
      part = jax.tree.map(lambda a: a[start[kind]:start[kind] + count], getattr(self, kind))  # noqa: B023
      (w, e), kept = layer_stack.run(part, (w, e), call, kinds=[kind] * count, scan=c.scan, remat=c.remat,
                                     per_layer=None if keys is None else keys[place:place + count],
                                     collect=(lambda carry: carry[0]) if collect else None)
      states += () if kept is None else tuple(kept)
      start[kind] += count
      place += count
    return w, e, (*states, w) if collect else None

  def _head(self, output: Output, vectors, mask, key) -> Output:
    head: str = self.config.head
    hidden: Any = output.hidden
    if head == "pretraining":
      output.unembed = self.unembed
      logits = self.entity_head(hidden, vectors)
      output.extra["entity_logits"] = logits if mask is None else jnp.where(mask > 0, logits, NEGATIVE)
      output.extra["seq_relationship_logits"] = self.classifier(self.pooler(hidden))
    elif head == "sequence":
      output.scores = self.classifier(self.pooler(hidden, key))
    elif head == "token":
      output.scores = self.classifier(dropout(hidden, self.config.dropout, key))
    else:
      output.extra["pooler_output"] = self.pooler(hidden)
    return output

  def unembed(self, hidden: jax.Array) -> jax.Array:
    """(..., D) -> (..., V) scores, the head's transform included."""
    return self.head(hidden, self.tokens.embedding[...])


def _options(c: ErnieKnowledgeConfig) -> AttentionOptions:
  return AttentionOptions(dropout=c.attention_dropout, implementation=c.attention)


def _token_block(rngs: nnx.Rngs, c: ErnieKnowledgeConfig) -> Block:
  return Block(partial(LayerNorm, rngs, c.width, epsilon=c.epsilon),
               Attention(rngs, c.width, c.heads, c.width // c.heads, options=_options(c)),
               FeedForward(rngs, c.width, c.hidden, act=c.act), norms="post", dropout=c.dropout,
               remat=c.remat)


def _fusion_block(rngs: nnx.Rngs, c: ErnieKnowledgeConfig, entity_heads: int) -> FusionBlock:
  return FusionBlock(rngs, c.width, c.heads, c.entity_width, entity_heads, c.hidden, act=c.act, epsilon=c.epsilon,
                     dropout=c.dropout, options=_options(c))


def from_config(config: ErnieKnowledgeConfig) -> Model:
  """The model of this config.

  Raises:
    ConfigError: sizes that do not fit together, an unknown layer, activation or remat policy.
  """
  check(config)
  return Model.from_module(lambda rngs: ErnieKnowledge(rngs, config), config, offers=OFFERS[config.head])


def build(vocab_size: int, length: int, *, variant: str = "base", width: int | None = None, heads: int | None = None,
          hidden: int | None = None, layers: tuple[str, ...] | None = None, entity_width: int | None = None,
          entity_heads: int | None = None, positions: int | None = None, head: Head = "pretraining", labels: int = 2,
          dropout: float = 0.0, dtype: Literal["float32", "bfloat16"] = "float32", remat: str = "none",
          scan: bool = True, attention: Implementation = "auto") -> Model:
  """An ERNIE with knowledge for `vocab_size` tokens and rows of `length`.

  Args:
    variant: debug, or base, the published size.
    width: model width D; None takes the variant's, as for the next ones.
    heads: attention heads of tokens.
    hidden: feed-forward width.
    layers: kinds of the layers in order: 'sim' (tokens alone), 'mix' (both streams), 'norm' (and attention among
      entities).
    entity_width: width of the entities' vectors; the data's.
    entity_heads: attention heads of entities.
    positions: longest sequence; at least the training length.
    head: pretraining (masked words, next sentence, entities), sequence, token, none.
    labels: number of labels of a sequence or token head.
    dropout: rate on embeddings, residuals and attention weights.
    dtype: compute type; parameters, norms, softmax and loss stay float32.
    remat: what the backward pass recomputes: none, full, dots, dots_no_batch, offload_dots.
    scan: runs of equal layers are one compiled layer in a loop; False unrolls.
    attention: implementation behind the attention door.
  """
  sizes = chosen(VARIANTS, variant, width=width, heads=heads, hidden=hidden, layers=None if layers is None else
                 tuple(layers), entity_width=entity_width, entity_heads=entity_heads)
  sizes = with_positions(sizes, length, positions)
  return from_config(ErnieKnowledgeConfig(vocab_size=vocab_size, head=head, labels=labels, dropout=dropout,
                                          attention_dropout=dropout, dtype=dtype, remat=remat, scan=scan,
                                          attention=attention, **sizes))
