"""T5 (Raffel et al. 2020) and its version 1.1 (Shazeer 2020): an encoder, and a decoder that reads it.

No positions but a bias on the scores by distance, one table for each stack; RMSNorm before each part; no biases; scores
are not divided by sqrt(K). Version 1.0 multiplies the decoder's states by D ** -0.5 before the tied head; 1.1 has a
gated feed-forward part and a head of its own. The encoder may also stand alone.
"""

import dataclasses
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.errors import ConfigError, check_counts
from llm_jax.core.model import Model, stack
from llm_jax.core.output import Output
from llm_jax.core.sizes import chosen
from llm_jax.layers import cache as kv
from llm_jax.layers import decoding
from llm_jax.layers import stack as layer_stack
from llm_jax.layers.attention import Attention, AttentionOptions
from llm_jax.layers.block import Block, Memory
from llm_jax.layers.dot_product import Implementation, Visibility
from llm_jax.layers.dropout import check_rate, dropout, split
from llm_jax.layers.embedding import Embedding
from llm_jax.layers.feed_forward import FeedForward, activation
from llm_jax.layers.linear import Linear, normal
from llm_jax.layers.norm import RMSNorm
from llm_jax.layers.relative import BucketBias
from llm_jax.models.t5_sizes import VARIANTS, T5Config
from llm_jax.parallel.rules import constrain

ENCODER_ALONE = ("token", "encoder")
OFFERS: dict[str, tuple[str, ...]] = {"lm": ("encoder_decoder",), "sequence": ("classes",), "token": ("token_classes",),
                                      "question": ("spans",), "encoder": (), "none": ()}


class Stack(nnx.Module):
  """The layers of the encoder or of the decoder, with their bias by distance and the final norm."""

  def __init__(self, rngs: nnx.Rngs, config: T5Config, depth: int, *, decoder: bool):
    self.config, self.depth = config, depth
    self.bias = BucketBias(rngs, config.buckets, config.heads, furthest=config.furthest, bidirectional=not decoder,
                           deviation=config.width**-0.5)
    self.blocks = stack(lambda r: _block(r, config, decoder), depth, rngs)
    self.final_norm = RMSNorm(rngs, config.width, epsilon=config.epsilon)

  def __call__(self, x_BLD: jax.Array, visibility: Visibility, *, memory: Memory | None = None,
               cache: kv.Cache | None = None, key: jax.Array | None = None,
               collect: bool = False) -> tuple[jax.Array, kv.Cache | None, tuple[jax.Array, ...] | None]:
    """-> (states after the final norm, cache, each layer's input and the states if `collect`)."""
    config, length = self.config, x_BLD.shape[1]
    embed_key, layers_key, out_key = split(key, 3)
    x = constrain(dropout(x_BLD, config.dropout, embed_key), "batch", "length", "width")
    slots = length if cache is None else cache["valid"].shape[1]
    bias = self.bias(length, slots, visibility.offset)

    def call(block, carry, layer, kind, key, rows):
      x, written = carry
      segments, read, states = rows
      seen = dataclasses.replace(visibility, segments=segments)
      source = None
      if memory is not None:
        kept = memory.kept if cache is None else kv.memory(cache, layer)
        source = Memory(dataclasses.replace(memory.visibility, segments=read), states, kept)
      return block(x, seen, cache=written, layer=layer, bias_BHLM=bias, memory=source, key=key)
    keys = None if layers_key is None else jax.random.split(layers_key, self.depth)
    written = None if cache is None else kv.without_memory(cache)
    rows = visibility.segments, *((None, None) if memory is None else (memory.visibility.segments, memory.states))
    (x, written), kept = layer_stack.run(self.blocks, (x, written), call, kinds=[None] * self.depth, scan=config.scan,
                                         remat=config.remat, per_layer=keys, rows=rows, pipeline=cache is None,
                                         collect=(lambda carry: carry[0]) if collect else None)
    x = dropout(self.final_norm(x), config.dropout, out_key)
    cache = None if cache is None or written is None else cache | kv.advance(written, length)
    return x, cache, None if kept is None else (*kept, x)


class T5(nnx.Module):
  """The network. Call it through `Model.apply`."""

  def __init__(self, rngs: nnx.Rngs, config: T5Config):
    self.config = config
    self.tokens = Embedding(rngs, config.vocab_size, config.width, dtype=jnp.dtype(config.dtype), init=normal(1.0))
    self.encoder = Stack(rngs, config, config.depth, decoder=False)
    both = config.head not in ENCODER_ALONE
    self.decoder: Any = Stack(rngs, config, config.decoder_depth or config.depth, decoder=True) if both else None
    inner = normal(config.width**-0.5)
    own = config.head == "lm" and not config.tied
    make = lambda out, size, bias=True: Linear(rngs, {"embed": config.width}, {out: size}, bias=bias, init=inner)
    self.head: Any = make("vocab", config.vocab_size, bias=False) if own else None
    self.dense: Any = make("norm", config.width) if config.head == "sequence" else None
    scored = config.head in ("sequence", "token", "question")
    self.classifier: Any = make("labels", config.labels) if scored else None

  def __call__(self, input_ids: Any = None, *, attention_mask: jax.Array | None = None,
               segment_ids: jax.Array | None = None, decoder_input_ids: Any = None,
               decoder_attention_mask: jax.Array | None = None, decoder_segment_ids: jax.Array | None = None,
               cache: kv.Cache | None = None, key: jax.Array | None = None,
               output_hidden_states: bool = False) -> Output:
    """input_ids (B, M) of the encoder with its attention_mask and segment_ids, decoder_input_ids (B, L) with theirs.

    segment_ids, decoder_segment_ids: documents of packed rows, 0 is padding; a document of the decoder reads the one of
    the encoder with the same id. cache: of `encode`; the encoder then does not run, and input_ids are not read. The
    heads for sequences and questions feed the decoder with input_ids shifted by one, where nothing else is given.

    Raises:
      ConfigError: no decoder_input_ids for a head that writes text.
    """
    encoder_key, decoder_key = split(key, 2)
    common: dict[str, Any] = dict(key=decoder_key, collect=output_hidden_states)
    if cache is not None:
      ids = (jnp.ones_like(decoder_input_ids), cache["memory_valid"])
      memory = Memory(Visibility(causal=False, segments=ids))
      return self._write(decoder_input_ids, decoder_attention_mask, decoder_segment_ids, memory, cache, **common)
    read = decoding.prepare(input_ids, attention_mask, None, segment_ids, None).segments
    states, _, hidden_states = self.encoder(self.tokens(input_ids), Visibility(causal=False, segments=read),
                                            key=encoder_key, collect=output_hidden_states)
    if self.decoder is None:
      return self._output(states, input_ids, hidden_states=hidden_states)
    decoder_input_ids = self._decoder_input(input_ids) if decoder_input_ids is None else decoder_input_ids
    memory = Memory(Visibility(causal=False, segments=read), states=states)
    output = self._write(decoder_input_ids, decoder_attention_mask, decoder_segment_ids, memory, None, **common,
                         input_ids=input_ids)
    output.extra |= dict(encoder_last_hidden_state=states) | ({"encoder_hidden_states": hidden_states}
                                                              if hidden_states is not None else {})
    return output

  def _write(self, ids_BL: Any, mask_BL: jax.Array | None, segments_BL: jax.Array | None, memory: Memory,
             cache: kv.Cache | None, *, key: jax.Array | None, collect: bool, input_ids: Any = None) -> Output:
    """The decoder over its tokens; those of a packed document read the encoder's tokens with the same id."""
    inputs = decoding.prepare(ids_BL, mask_BL, None, segments_BL, cache)
    if cache is None and memory.visibility.segments is not None:
      written = jnp.ones_like(ids_BL) if inputs.segments is None else inputs.segments[0]
      seen = dataclasses.replace(memory.visibility, segments=(written, memory.visibility.segments[1]))
      memory = dataclasses.replace(memory, visibility=seen)
    x, cache, hidden_states = self.decoder(
        self.tokens(ids_BL), Visibility(segments=inputs.segments, offset=inputs.offset), memory=memory,
        cache=inputs.cache, key=key, collect=collect)
    extra: dict[str, Any] = {} if hidden_states is None else {"decoder_hidden_states": hidden_states}
    return self._output(x, input_ids, hidden_states=hidden_states, cache=cache, extra=extra)

  def _decoder_input(self, input_ids: jax.Array) -> jax.Array:
    config = self.config
    if config.head not in ("sequence", "question"):
      raise ConfigError("decoder_input_ids", "required but not given", accepted="token ids (B, L), the first one the "
                        "token that begins a text")
    start = config.pad_token if config.start_token is None else config.start_token
    return jnp.pad(input_ids[:, :-1], ((0, 0), (1, 0)), constant_values=start)

  def _output(self, x: jax.Array, input_ids: Any, **common: Any) -> Output:
    """The Output of the head over the last states; a sequence is read at the last end-of-text of input_ids."""
    head = self.config.head
    if head == "sequence":
      last_B = jnp.where(input_ids == self.config.eos_token, jnp.arange(x.shape[1]), 0).max(-1)
      read_BD = jnp.take_along_axis(x, last_B[:, None, None], axis=1)[:, 0]
      return Output(x, scores=self.classifier(jnp.tanh(self.dense(read_BD))), **common)
    if head == "token":
      return Output(x, scores=self.classifier(x), **common)
    if head == "question":
      start_BL, end_BL = jnp.moveaxis(self.classifier(x), -1, 0)
      spans = {"start_logits": start_BL, "end_logits": end_BL}
      return Output(x, **common | {"extra": common.get("extra", {}) | spans})
    return Output(x, unembed=self.unembed if head == "lm" else None, **common)

  def unembed(self, hidden: jax.Array) -> jax.Array:
    """(..., D) -> (..., V) scores."""
    hidden = hidden * jnp.asarray(self.config.width**-0.5, hidden.dtype) if self.config.scale_output else hidden
    return self.tokens.attend(hidden) if self.head is None else self.head(hidden)

  def init_cache(self, batch: int, length: int) -> kv.Cache:
    """A cache for `batch` rows of at most `length` tokens of the decoder, whose encoder has read nothing."""
    nothing = jnp.zeros((batch, 1), jnp.int32)
    return self._cache(nothing, nothing, jnp.zeros((batch, 1, self.config.width), jnp.dtype(self.config.dtype)), length)

  def encode(self, input_ids: jax.Array, attention_mask: jax.Array | None = None, *, length: int) -> kv.Cache:
    """The cache with which the decoder writes at most `length` tokens: the encoder runs here, once, and every layer
    keeps its keys and values of what it says."""
    valid = jnp.ones_like(input_ids) if attention_mask is None else attention_mask.astype(jnp.int32)
    states, _, _ = self.encoder(self.tokens(input_ids), Visibility(causal=False, segments=(valid, valid)))
    return self._cache(input_ids, valid, states, length)

  def _cache(self, input_ids: jax.Array, valid_BM: jax.Array, states_BMD: jax.Array, length: int) -> kv.Cache:
    c = self.config
    empty = kv.init_cache(c.decoder_depth or c.depth, input_ids.shape[0], length, c.heads, c.head_width,
                          jnp.dtype(c.dtype))
    k, v = jax.vmap(lambda block: block.cross_attention.keys_and_values(states_BMD))(self.decoder.blocks)
    return kv.with_memory(empty, k, v, valid_BM)


def _block(rngs: nnx.Rngs, c: T5Config, decoder: bool) -> Block:
  """Initial deviations as released: products that keep a variance of one, where the scores are not divided."""
  options = AttentionOptions(scale=1.0, dropout=c.dropout, implementation=c.attention)
  attention = partial(Attention, rngs, c.width, c.heads, c.head_width, bias=False, init=normal(c.width**-0.5),
                      query_init=normal((c.width * c.head_width) ** -0.5),
                      out_init=normal((c.heads * c.head_width) ** -0.5), options=options)
  feed_forward = FeedForward(rngs, c.width, c.hidden, act=c.act, gated=c.gated, bias=False, init=normal(c.width**-0.5),
                             out_init=normal(c.hidden**-0.5), dropout=c.dropout)
  return Block(partial(RMSNorm, rngs, c.width, epsilon=c.epsilon), attention(), feed_forward, dropout=c.dropout,
               remat=c.remat, cross_attention=attention() if decoder else None)


def from_config(config: T5Config) -> Model:
  """The model of this config.

  Raises:
    ConfigError: sizes that do not fit together, an unknown activation or remat policy.
  """
  check_counts("config.model", width=config.width, depth=config.depth, decoder_depth=config.decoder_depth,
               heads=config.heads, head_width=config.head_width, hidden=config.hidden, labels=config.labels)
  check_rate(config.dropout)
  if config.buckets < 4 or config.buckets % 2:
    raise ConfigError("config.model.buckets", f"got {config.buckets}", accepted="an even number from 4")
  if config.furthest <= config.buckets // 2:
    raise ConfigError("config.model.furthest", f"{config.furthest} is nearer than the {config.buckets // 2} distances "
                      "that have a bucket each", accepted=f"more than {config.buckets // 2}")
  activation(config.act, "config.model.act")
  layer_stack.check_policy(config.remat)
  return Model.from_module(lambda rngs: T5(rngs, config), config, offers=OFFERS[config.head])


def build(vocab_size: int, length: int, *, variant: str = "small", width: int | None = None, depth: int | None = None,
          decoder_depth: int | None = None, heads: int | None = None, head_width: int | None = None,
          hidden: int | None = None, act: str | None = None, gated: bool | None = None, buckets: int | None = None,
          furthest: int | None = None, dropout: float = 0.0, tied: bool | None = None,
          dtype: Literal["float32", "bfloat16"] = "float32", remat: str = "none", scan: bool = True,
          attention: Implementation = "auto") -> Model:
  """A T5 for `vocab_size` tokens; rows of any length.

  Args:
    variant: published size: small, base, large, 3b, 11b, v1.1-small ... v1.1-xxl; debug and debug-v1.1 run anywhere.
    width: model width D; None takes the variant's, as for the next ones.
    depth: layers of the encoder.
    decoder_depth: layers of the decoder; as many as the encoder's when no variant says otherwise.
    heads: attention heads.
    head_width: width of a head; heads * head_width need not be the width.
    hidden: feed-forward width.
    act: activation, by Hugging Face's names.
    gated: a gate in the feed-forward part (version 1.1).
    buckets: of distances between tokens.
    furthest: distance from which on all share a bucket.
    dropout: rate on embeddings, residuals, hidden layers and attention weights.
    tied: share the token embedding with the output head.
    dtype: compute type; parameters, norms, softmax and loss stay float32.
    remat: what the backward pass recomputes: none, full, dots, dots_no_batch, offload_dots, split, split_wide.
    scan: one compiled layer run in a loop; False unrolls.
    attention: implementation behind the attention door; the bias by distance leaves 'xla' alone.
  """
  sizes = chosen(VARIANTS, variant, width=width, depth=depth, decoder_depth=decoder_depth, heads=heads,
                 head_width=head_width, hidden=hidden, act=act, gated=gated, buckets=buckets, furthest=furthest,
                 tied=tied)
  return from_config(T5Config(vocab_size=vocab_size, dropout=dropout, pad_token=None, eos_token=None, start_token=None,
                              dtype=dtype, remat=remat, scan=scan, attention=attention, **sizes))
