"""The Llama family of decoders: Llama 2 and 3, Mistral, Mixtral, Qwen 2 and 3, Qwen 3 MoE, Gemma 1, 2 and 3.

RMSNorm before each half (Gemma 2 and 3: around), rotary positions, grouped keys, a gated feed-forward block or experts.
What differs is in the config (decoder_config.py): biases, per-head norms of queries and keys, windows and rope bases of
layers, caps, scales, which layers have experts.
"""

import dataclasses
import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.errors import ConfigError, check_counts
from llm_jax.core.model import Model, stack
from llm_jax.core.output import Output
from llm_jax.core.sizes import chosen
from llm_jax.layers import cache as kv
from llm_jax.layers import decoding
from llm_jax.layers import heads as output_heads
from llm_jax.layers import stack as layer_stack
from llm_jax.layers.attention import Attention, AttentionOptions
from llm_jax.layers.block import Block
from llm_jax.layers.dot_product import Implementation, Visibility
from llm_jax.layers.dropout import check_rate, dropout, split
from llm_jax.layers.embedding import Embedding
from llm_jax.layers.experts import Experts, Routed
from llm_jax.layers.feed_forward import FeedForward, activation
from llm_jax.layers.linear import Init, normal
from llm_jax.layers.norm import RMSNorm
from llm_jax.layers.positions import Rope, inverse_frequencies, rotation
from llm_jax.models.decoder_config import VARIANTS, DecoderConfig
from llm_jax.parallel.rules import constrain


class Decoder(nnx.Module):
  """The network. Call it through `Model.apply`."""

  def __init__(self, rngs: nnx.Rngs, config: DecoderConfig):
    self.config = config
    self.tokens = Embedding(rngs, config.vocab_size, config.width, dtype=jnp.dtype(config.dtype),
                            padding=config.pad_token)
    self.blocks = stack(lambda r: _block(r, config), config.depth, rngs)
    sparse = len(config.sparse_layers)
    self.sparse = stack(lambda r: _experts(r, config), sparse, rngs) if sparse else None
    dense = config.depth - sparse if sparse else 0
    self.dense = stack(lambda r: _feed_forward(r, config), dense, rngs) if dense else None
    self.final_norm = _norm(rngs, config)
    self.head = output_heads.lm_head(rngs, config.head, config.width, config.vocab_size, config.tied)
    self.classifier = output_heads.classifier(rngs, config.head, config.width, config.labels, config.pad_token)

  def __call__(self, input_ids: jax.Array, *, attention_mask: jax.Array | None = None,
               position_ids: jax.Array | None = None, segment_ids: jax.Array | None = None,
               prefix_length: jax.Array | None = None, cache: kv.Cache | None = None, key: jax.Array | None = None,
               output_hidden_states: bool = False, output_router_logits: bool = False) -> Output:
    """input_ids (B, L), the other arrays too; see layers/decoding.py for their meaning.

    output_router_logits: adds extra['router_logits'] (sparse layers, B * L, E) and extra['aux_loss'], not weighted.
    """
    config = self.config
    inputs = decoding.prepare(input_ids, attention_mask, position_ids, segment_ids, cache, prefix_length=prefix_length,
                              padding_reads=config.head == "question")
    embed_key, layers_key = split(key, 2)
    x = self.tokens(input_ids)
    if config.scale_embedding:
      x = x * jnp.asarray(config.width**0.5, x.dtype)  # rounded to the compute dtype, as the published models were run
    x = constrain(dropout(x, config.dropout, embed_key), "batch", "length", "width")
    valid = None if inputs.segments is None else inputs.segments[0] > 0
    x, cache, routed, hidden_states = self._layers(x, inputs, valid, layers_key, output_hidden_states,
                                                   output_router_logits)
    x = self.final_norm(x)
    if hidden_states is not None:
      hidden_states = (*hidden_states, x)
    of_experts = {} if routed is None else routed.output(config.sparse_layers, config.balance_weight,
                                                         config.router_z_weight)
    return output_heads.output(config.head, self.classifier, x, input_ids, self.unembed, cache=cache,
                               hidden_states=hidden_states, segments=inputs.segments if inputs.cache is None else None,
                               **of_experts)

  def _layers(self, x, inputs: decoding.DecoderInputs, valid, key, collect: bool, collect_logits: bool):
    config = self.config
    kinds = _kinds(config)
    ropes = list(dict.fromkeys(rope for _, rope, _ in kinds))
    rotations = [_rotation(config, rope, inputs.positions) for rope in ropes]

    def call(block, carry, layer, kind, key, rows):
      x, cache, routed = carry
      segments, valid, rotations, prefix = rows
      window, rope, sparse = kind
      block, feed_forward = block if parts else (block, None)
      visibility = Visibility(window=window, segments=segments, offset=inputs.offset, prefix=prefix)
      more = dict(valid_BL=valid, key=None if key is None else jax.random.fold_in(key, 0)) if sparse else None
      x, cache, said = block.run(x, visibility, rotations[ropes.index(rope)], cache, layer, key=key,
                                 feed_forward=feed_forward, inputs=more)
      return x, cache, routed.add(layer, *said) if sparse else routed
    keys = None if key is None else jax.random.split(key, config.depth)
    experts = config.experts
    parts = {True: self.sparse, False: self.dense} if experts else None
    routed = Routed.start(config.depth, math.prod(x.shape[:2]), experts, collect_logits) if experts else None
    (x, cache, routed), kept = layer_stack.run(
        self.blocks, (x, inputs.cache, routed), call, kinds=kinds, scan=config.scan, remat=config.remat,
        per_layer=keys, collect=(lambda carry: carry[0]) if collect else None, parts=parts,
        part_of=[sparse for _, _, sparse in kinds] if parts else (),
        rows=(inputs.segments, valid, rotations, inputs.prefix), sums=(2,),
        pipeline=inputs.cache is None and not collect_logits)
    cache = None if cache is None else kv.advance(cache, x.shape[1])
    return x, cache, routed, None if kept is None else tuple(kept)

  def unembed(self, hidden: jax.Array) -> jax.Array:
    """(..., D) -> (..., V) scores, capped where the config says so."""
    scores = self.tokens.attend(hidden) if self.head is None else self.head(hidden)
    cap = self.config.logit_cap
    return scores if cap is None else cap * jnp.tanh(scores / cap)

  def init_cache(self, batch: int, length: int) -> kv.Cache:
    """An empty cache for `batch` rows of at most `length` tokens."""
    c = self.config
    return kv.init_cache(c.depth, batch, length, c.kv_heads, c.head_width, jnp.dtype(c.dtype))


def _kinds(c: DecoderConfig) -> list[tuple[int | None, Rope, bool]]:
  """(window, rope, whether it has experts) of each layer."""
  ropes = {"full": c.rope, "local": c.local_rope or c.rope}
  return [(window, ropes[c.spans[i % len(c.spans)]], i in c.sparse_layers) for i, window in enumerate(c.windows)]


def _rotation(c: DecoderConfig, rope: Rope, positions_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
  frequencies, factor = inverse_frequencies(rope, c.head_width, positions_BL.max() + 1, c.positions)
  return rotation(positions_BL, jnp.asarray(frequencies), factor)


def _norm(rngs: nnx.Rngs, c: DecoderConfig) -> RMSNorm:
  return RMSNorm(rngs, c.width, epsilon=c.epsilon, offset=c.norm_offset)


def _block(rngs: nnx.Rngs, c: DecoderConfig) -> Block:
  options = AttentionOptions(scale=c.attention_scale, soft_cap=c.attention_cap, dropout=c.attention_dropout,
                             implementation=c.attention)
  attention = Attention(rngs, c.width, c.heads, c.head_width, kv_heads=c.kv_heads, bias=c.qkv_bias, out_bias=c.out_bias,
                        qk_norm=dict(epsilon=c.epsilon, offset=c.norm_offset) if c.qk_norm else None,
                        out_init=_residual(c), options=options)
  return Block(partial(_norm, rngs, c), attention, None if c.experts else _feed_forward(rngs, c), norms=c.norms,
               dropout=c.dropout, remat=c.remat)


def _residual(c: DecoderConfig) -> Init:
  return normal(0.02 / (2 * c.depth) ** 0.5)  # as GPT-2: residual projections shrink with depth


def _feed_forward(rngs: nnx.Rngs, c: DecoderConfig) -> FeedForward:
  return FeedForward(rngs, c.width, c.hidden, act=c.act, gated=True, bias=c.mlp_bias, out_init=_residual(c))


def _experts(rngs: nnx.Rngs, c: DecoderConfig) -> Experts:
  return Experts(rngs, c.width, c.expert_hidden or c.hidden, experts=c.experts or 0, per_token=c.experts_per_token,
                 act=c.act, normalise=c.normalise_experts, capacity=c.capacity, jitter=c.router_jitter,
                 out_init=_residual(c))


def from_config(config: DecoderConfig) -> Model:
  """The model of this config.

  Raises:
    ConfigError: sizes that do not fit together, an unknown activation, rope scaling or remat policy.
  """
  check_counts("config.model", width=config.width, depth=config.depth, heads=config.heads, kv_heads=config.kv_heads,
               head_width=config.head_width, hidden=config.hidden, window=config.window, labels=config.labels)
  check_rate(config.dropout)
  if config.heads % config.kv_heads:
    raise ConfigError("config.model.kv_heads", f"{config.kv_heads} key heads do not divide {config.heads} heads",
                      accepted=f"a divisor of {config.heads}")
  if config.head_width % 2:
    raise ConfigError("config.model.head_width", f"rotary positions need an even width, got {config.head_width}")
  if "local" in config.spans and config.window is None:
    raise ConfigError("config.model.window", "local layers need a window", accepted="a number of tokens")
  for rope in {rope for _, rope, _ in _kinds(config)}:
    inverse_frequencies(rope, config.head_width, 1, config.positions)
  activation(config.act, "config.model.act")
  _check_experts(config)
  layer_stack.check_policy(config.remat)
  return Model.from_module(lambda rngs: Decoder(rngs, config), config, offers=output_heads.OFFERS[config.head])


def _check_experts(c: DecoderConfig) -> None:
  if c.experts is None:
    return
  check_counts("config.model", experts=c.experts, experts_per_token=c.experts_per_token, expert_hidden=c.expert_hidden,
               sparse_step=c.sparse_step)
  if c.experts_per_token > c.experts:
    raise ConfigError("config.model.experts_per_token", f"{c.experts_per_token} of {c.experts} experts",
                      accepted=f"1 to {c.experts}")
  if not c.sparse_layers:
    raise ConfigError("config.model.experts", f"no layer of {c.depth} has them",
                      accepted="experts=None, or a sparse_step and dense_layers that leave some")
  if c.capacity is not None and c.capacity <= 0:
    raise ConfigError("config.model.capacity", f"got {c.capacity}", accepted="a number above 0, or None")


def build(vocab_size: int, length: int, *, variant: str = "llama3.2-1b", width: int | None = None,
          depth: int | None = None, heads: int | None = None, kv_heads: int | None = None,
          head_width: int | None = None, hidden: int | None = None, act: str | None = None, window: int | None = None,
          rope_theta: float | None = None, experts: int | None = None, experts_per_token: int | None = None,
          expert_hidden: int | None = None, balance_weight: float | None = None, router_z_weight: float = 0.0,
          capacity: float | None = None, dropout: float = 0.0, tied: bool | None = None,
          head: Literal["lm", "sequence"] = "lm", labels: int = 2,
          dtype: Literal["float32", "bfloat16"] = "float32", remat: str = "none", scan: bool = True,
          attention: Implementation = "auto") -> Model:
  """A decoder of the Llama family for `vocab_size` tokens and rows of `length`.

  Args:
    variant: published size: llama2-7b, llama3-8b, llama3.2-1b, mistral-7b, qwen2-0.5b, qwen3-0.6b, gemma-2b, gemma2-2b,
      gemma3-1b and their larger ones; of experts mixtral-8x7b, qwen3-30b-a3b and larger; debug and debug-FAMILY run
      anywhere.
    width: model width D; None takes the variant's, as for the next ones.
    depth: number of layers.
    heads: query heads.
    kv_heads: key and value heads, a divisor of `heads`.
    head_width: width of a head.
    hidden: feed-forward width.
    act: activation of the gate, by Hugging Face's names.
    window: tokens that local layers see.
    rope_theta: base of the rotary positions (of the global layers).
    experts: number of experts of a sparse layer; None takes the variant's, as for the next three.
    experts_per_token: experts that a token is sent to.
    expert_hidden: feed-forward width of one expert.
    balance_weight: weight of the loss that spreads tokens over experts (Fedus et al. 2022).
    router_z_weight: weight of the loss that keeps router logits small (Zoph et al. 2022: 1e-3).
    capacity: an expert takes at most so many times the mean load of a row, the rest is dropped; None drops nothing.
    dropout: rate on embeddings, residuals and attention weights.
    tied: share the token embedding with the output head.
    head: 'lm' scores next tokens, 'sequence' the labels of a whole text, read at its last token.
    labels: number of labels of the head 'sequence'; a reward model has 1.
    dtype: compute type; parameters, norms, softmax and loss stay float32.
    remat: what the backward pass recomputes: none, full, dots, dots_no_batch, offload_dots, split, split_wide.
    scan: one compiled period of layers run in a loop; False unrolls.
    attention: implementation behind the attention door.
  """
  sizes = chosen(VARIANTS, variant, width=width, depth=depth, heads=heads, kv_heads=kv_heads, head_width=head_width,
                 hidden=hidden, act=act, window=window, tied=tied, experts=experts, experts_per_token=experts_per_token,
                 expert_hidden=expert_hidden, balance_weight=balance_weight)
  if rope_theta is not None:
    sizes["rope"] = dataclasses.replace(sizes.get("rope", Rope()), theta=rope_theta)
  sizes["positions"] = max(sizes["positions"], length)
  return from_config(DecoderConfig(vocab_size=vocab_size, head=head, labels=labels, dropout=dropout,
                                   attention_dropout=dropout, dtype=dtype, router_z_weight=router_z_weight,
                                   capacity=capacity, remat=remat, scan=scan, attention=attention, **sizes))
