"""GPT-1 (Radford et al. 2018), GPT-2 (Radford et al. 2019) and GPT-3 (Brown et al. 2020).

Learned positions, LayerNorm, a plain feed-forward block of four times the width, a head tied to the token embedding.
GPT-1 norms after each residual and has no final norm; GPT-3 alternates dense and locally banded attention.
"""

import dataclasses
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.errors import ConfigError, check_counts
from llm_jax.core.model import Model, stack
from llm_jax.core.output import Output
from llm_jax.core.sizes import chosen, with_positions
from llm_jax.layers import cache as kv
from llm_jax.layers import decoding
from llm_jax.layers import heads as output_heads
from llm_jax.layers import stack as layer_stack
from llm_jax.layers.attention import Attention, AttentionOptions
from llm_jax.layers.block import Block
from llm_jax.layers.dot_product import Implementation, Visibility
from llm_jax.layers.dropout import check_rate, dropout, split
from llm_jax.layers.embedding import Embedding
from llm_jax.layers.feed_forward import FeedForward, activation
from llm_jax.layers.linear import normal
from llm_jax.layers.norm import LayerNorm
from llm_jax.parallel.rules import constrain


@dataclasses.dataclass(frozen=True)
class GPTConfig:
  """One architecture of the family; widths and counts, no training settings."""

  vocab_size: int
  positions: int = 1024
  width: int = 768
  depth: int = 12
  heads: int = 12
  hidden: int | None = None  # None: 4 * width
  act: str = "gelu_new"
  norms: Literal["pre", "post"] = "pre"
  epsilon: float = 1e-5
  band: int | None = None  # window of every second layer (GPT-3)
  embed_dropout: float = 0.0
  residual_dropout: float = 0.0
  attention_dropout: float = 0.0
  scale_by_layer: bool = False  # Hugging Face's scale_attn_by_inverse_layer_idx
  scale_attention: bool = True
  tied: bool = True
  head: output_heads.Head = "lm"
  labels: int = 2
  pad_token: int | None = None
  carried: str = "{}"  # JSON of config.json keys that change no number (token ids, names of labels)
  dtype: str = "float32"
  remat: str = "none"
  scan: bool = True
  attention: Implementation = "auto"

  @property
  def windows(self) -> tuple[int | None, ...]:
    """Of each layer: how many tokens a query sees, itself included; None: all up to itself."""
    return tuple(self.band if i % 2 else None for i in range(self.depth))


# Radford et al. 2018, table 1; Radford et al. 2019, table 2; Brown et al. 2020, table 2.1.
GPT3 = dict(positions=2048, band=256)
VARIANTS: dict[str, dict] = {
    "debug": dict(width=64, depth=2, heads=4, positions=128),
    "gpt1": dict(width=768, depth=12, heads=12, positions=512, norms="post"),
    "124m": dict(width=768, depth=12, heads=12),
    "355m": dict(width=1024, depth=24, heads=16),
    "774m": dict(width=1280, depth=36, heads=20),
    "1.5b": dict(width=1600, depth=48, heads=25),
    "gpt3-125m": GPT3 | dict(width=768, depth=12, heads=12),
    "gpt3-350m": GPT3 | dict(width=1024, depth=24, heads=16),
    "gpt3-760m": GPT3 | dict(width=1536, depth=24, heads=16),
    "gpt3-1.3b": GPT3 | dict(width=2048, depth=24, heads=16),
    "gpt3-2.7b": GPT3 | dict(width=2560, depth=32, heads=32),
    "gpt3-6.7b": GPT3 | dict(width=4096, depth=32, heads=32),
    "gpt3-13b": GPT3 | dict(width=5120, depth=40, heads=40),
    "gpt3-175b": GPT3 | dict(width=12288, depth=96, heads=96),
}


class GPT(nnx.Module):
  """The network. Call it through `Model.apply`."""

  def __init__(self, rngs: nnx.Rngs, config: GPTConfig):
    self.config = config
    self.tokens = Embedding(rngs, config.vocab_size, config.width, dtype=jnp.dtype(config.dtype))
    self.positions = Embedding(rngs, config.positions, config.width, axis="positions", dtype=jnp.dtype(config.dtype))
    self.blocks = stack(lambda r: _block(r, config), config.depth, rngs)
    self.final_norm = LayerNorm(rngs, config.width, epsilon=config.epsilon) if config.norms == "pre" else None
    self.head = output_heads.lm_head(rngs, config.head, config.width, config.vocab_size, config.tied)
    self.classifier = output_heads.classifier(rngs, config.head, config.width, config.labels, config.pad_token)

  def __call__(self, input_ids: jax.Array, *, attention_mask: jax.Array | None = None,
               token_type_ids: jax.Array | None = None, position_ids: jax.Array | None = None,
               segment_ids: jax.Array | None = None, prefix_length: jax.Array | None = None,
               mc_token_ids: jax.Array | None = None, cache: kv.Cache | None = None, key: jax.Array | None = None,
               output_hidden_states: bool = False) -> Output:
    """input_ids (B, L), the other arrays too; see layers/decoding.py for their meaning.

    token_type_ids: tokens whose embedding is added (GPT-1's and GPT-2's way to mark parts). With the double head,
    input_ids and attention_mask are (B, C, L) and mc_token_ids (B, C) says where each choice is read (default: at its
    end).
    """
    if self.config.head == "double":
      return self._choices(input_ids, attention_mask, mc_token_ids, key)
    return self._forward(input_ids, attention_mask, token_type_ids, position_ids, segment_ids, cache, key,
                         output_hidden_states, prefix_length)

  def _forward(self, input_ids, attention_mask=None, token_type_ids=None, position_ids=None, segment_ids=None,
               cache=None, key=None, output_hidden_states=False, prefix_length=None) -> Output:
    inputs = decoding.prepare(input_ids, attention_mask, position_ids, segment_ids, cache, prefix_length=prefix_length,
                              padding_reads=self.config.head == "question")
    embed_key, layers_key = split(key, 2)
    x = self.tokens(input_ids) + self.positions(inputs.positions)
    x = x if token_type_ids is None else x + self.tokens(token_type_ids)
    x = constrain(dropout(x, self.config.embed_dropout, embed_key), "batch", "length", "width")
    x, cache, hidden_states = self._layers(x, inputs, layers_key, output_hidden_states)
    x = x if self.final_norm is None else self.final_norm(x)
    if hidden_states is not None:
      hidden_states = (*hidden_states, x)
    return output_heads.output(self.config.head, self.classifier, x, input_ids, self.unembed, cache=cache,
                               hidden_states=hidden_states, segments=inputs.segments if inputs.cache is None else None)

  def _layers(self, x, inputs: decoding.DecoderInputs, key, collect: bool):
    config = self.config

    def call(block, carry, layer, window, key, rows):
      (x, cache), (segments, prefix) = carry, rows
      visibility = Visibility(window=window, segments=segments, offset=inputs.offset, prefix=prefix)
      factor = 1.0 / (layer + 1.0) if config.scale_by_layer else None
      return block(x, visibility, cache=cache, layer=layer, query_factor=factor, key=key)
    keys = None if key is None else jax.random.split(key, config.depth)
    (x, cache), kept = layer_stack.run(self.blocks, (x, inputs.cache), call, kinds=config.windows, scan=config.scan,
                                       remat=config.remat, per_layer=keys, rows=(inputs.segments, inputs.prefix),
                                       pipeline=inputs.cache is None,
                                       collect=(lambda carry: carry[0]) if collect else None)
    cache = None if cache is None else kv.advance(cache, x.shape[1])
    return x, cache, None if kept is None else tuple(kept)

  def _choices(self, input_ids_BCL, mask_BCL, mc_token_ids, key) -> Output:
    B, C, L = input_ids_BCL.shape
    mask = None if mask_BCL is None else mask_BCL.reshape(B * C, L)
    hidden = jnp.asarray(self._forward(input_ids_BCL.reshape(B * C, L), mask, key=key).hidden).reshape(B, C, L, -1)
    mc_token_ids = jnp.full((B, C), L - 1) if mc_token_ids is None else mc_token_ids
    return Output(hidden=hidden, unembed=self.unembed, extra={"mc_logits": self.classifier(hidden, mc_token_ids)})

  def unembed(self, hidden: jax.Array) -> jax.Array:
    """(..., D) -> (..., V) scores."""
    return self.tokens.attend(hidden) if self.head is None else self.head(hidden)

  def init_cache(self, batch: int, length: int) -> kv.Cache:
    """An empty cache for `batch` rows of at most `length` tokens."""
    c = self.config
    return kv.init_cache(c.depth, batch, length, c.heads, c.width // c.heads, jnp.dtype(c.dtype))


def _block(rngs: nnx.Rngs, c: GPTConfig) -> Block:
  residual = normal(0.02 / (2 * c.depth) ** 0.5)  # GPT-2: residual projections shrink with depth
  attention = Attention(rngs, c.width, c.heads, c.width // c.heads, out_init=residual,
                        options=AttentionOptions(scale=None if c.scale_attention else 1.0, dropout=c.attention_dropout,
                                                 implementation=c.attention))
  feed_forward = FeedForward(rngs, c.width, c.hidden or 4 * c.width, act=c.act, out_init=residual)
  return Block(partial(LayerNorm, rngs, c.width, epsilon=c.epsilon), attention, feed_forward, norms=c.norms,
               dropout=c.residual_dropout, remat=c.remat)


def from_config(config: GPTConfig) -> Model:
  """The model of this config.

  Raises:
    ConfigError: sizes that do not fit together, an unknown activation or remat policy.
  """
  check_counts("config.model", width=config.width, depth=config.depth, heads=config.heads, hidden=config.hidden,
               positions=config.positions, band=config.band, labels=config.labels)
  check_rate(config.residual_dropout)
  if config.width % config.heads:
    raise ConfigError("config.model.heads", f"{config.heads} heads do not divide width {config.width}",
                      accepted=f"a divisor of {config.width}")
  activation(config.act, "config.model.act")
  layer_stack.check_policy(config.remat)
  return Model.from_module(lambda rngs: GPT(rngs, config), config, offers=output_heads.OFFERS[config.head])


def build(vocab_size: int, length: int, *, variant: str = "124m", width: int | None = None, depth: int | None = None,
          heads: int | None = None, hidden: int | None = None, positions: int | None = None, act: str | None = None,
          norms: Literal["pre", "post"] | None = None, band: int | None = None, dropout: float = 0.0,
          tied: bool = True, head: Literal["lm", "sequence"] = "lm", labels: int = 2,
          dtype: Literal["float32", "bfloat16"] = "float32", remat: str = "none", scan: bool = True,
          attention: Implementation = "auto") -> Model:
  """A GPT for `vocab_size` tokens and rows of `length`.

  Args:
    variant: published size: debug, gpt1, 124m, 355m, 774m, 1.5b, gpt3-125m ... gpt3-175b.
    width: model width D; None takes the variant's, as for the next ones.
    depth: number of layers.
    heads: attention heads.
    hidden: feed-forward width; 4 * width when no variant says otherwise.
    positions: longest sequence; at least the training length.
    act: activation, by Hugging Face's names.
    norms: 'pre' (GPT-2) or 'post' (GPT-1).
    band: attention window of every second layer (GPT-3).
    dropout: rate on embeddings, residuals and attention weights.
    tied: share the token embedding with the output head.
    head: 'lm' scores next tokens, 'sequence' the labels of a whole text, read at its last token.
    labels: number of labels of the head 'sequence'; a reward model has 1.
    dtype: compute type; parameters, norms, softmax and loss stay float32.
    remat: what the backward pass recomputes: none, full, dots, dots_no_batch, offload_dots, split, split_wide.
    scan: one compiled layer run in a loop; False unrolls (slower to compile, a few percent faster to run).
    attention: implementation behind the attention door.
  """
  sizes = chosen(VARIANTS, variant, width=width, depth=depth, heads=heads, hidden=hidden, act=act, norms=norms,
                 band=band)
  sizes = with_positions(sizes, length, positions, usual=1024)
  return from_config(GPTConfig(vocab_size=vocab_size, embed_dropout=dropout, residual_dropout=dropout,
                               attention_dropout=dropout, tied=tied, head=head, labels=labels, dtype=dtype,
                               remat=remat, scan=scan, attention=attention, **sizes))
