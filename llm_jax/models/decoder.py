"""The Llama family of decoders: Llama 2 and 3, Mistral, Qwen 2 and 3, Gemma 1, 2 and 3, as one architecture.

RMSNorm before each half (Gemma 2 and 3: around), rotary positions, grouped keys, a gated feed-forward block. What
differs is in the config: biases, per-head norms of queries and keys, windows and rope bases per layer, caps, scales.
"""

import dataclasses
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.errors import ConfigError, check_counts, unknown_name
from llm_jax.core.model import Model, stack
from llm_jax.core.output import Output
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
from llm_jax.layers.norm import RMSNorm
from llm_jax.layers.positions import Rope, inverse_frequencies, rotation
from llm_jax.parallel.rules import constrain

Span = Literal["full", "local"]


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """One architecture of the family; widths and counts, no training settings."""

  vocab_size: int
  family: str = "llama"  # whose Hugging Face class it is: llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3_text
  positions: int = 4096  # longest sequence it was made for; some rope scalings read it
  width: int = 4096
  depth: int = 32
  heads: int = 32
  kv_heads: int = 32
  head_width: int = 128
  hidden: int = 11008
  act: str = "silu"
  norms: Literal["pre", "sandwich"] = "pre"
  epsilon: float = 1e-5
  norm_offset: bool = False  # norms multiply by 1 + scale (Gemma)
  scale_embedding: bool = False  # embeddings times sqrt(width) (Gemma)
  qkv_bias: bool = False
  out_bias: bool = False
  mlp_bias: bool = False
  qk_norm: bool = False  # RMSNorm of each query and key head (Qwen 3, Gemma 3)
  spans: tuple[Span, ...] = ("full",)  # repeated over the layers; 'local' layers see `window` tokens
  window: int | None = None
  rope: Rope = Rope()
  local_rope: Rope | None = None  # of 'local' layers; None: the same
  attention_scale: float | None = None  # None: head_width ** -0.5
  attention_cap: float | None = None
  logit_cap: float | None = None
  dropout: float = 0.0
  attention_dropout: float = 0.0
  tied: bool = False
  head: output_heads.Head = "lm"
  labels: int = 2
  pad_token: int | None = None
  carried: str = "{}"  # JSON of config.json keys that change no number (token ids, names of labels)
  dtype: str = "float32"
  remat: str = "none"
  scan: bool = True
  attention: Implementation = "auto"


def llama3_scaling(factor: float) -> tuple[tuple[str, Any], ...]:
  """Llama 3.1's and 3.2's rope scaling from 8,192 trained positions."""
  return (("factor", factor), ("high_freq_factor", 4.0), ("low_freq_factor", 1.0),
          ("original_max_position_embeddings", 8192))


def _sizes(width: int, hidden: int, depth: int, heads: int, kv_heads: int, head_width: int,
           **more: Any) -> dict[str, Any]:
  return dict(width=width, hidden=hidden, depth=depth, heads=heads, kv_heads=kv_heads, head_width=head_width) | more


LLAMA2 = dict(family="llama", positions=4096, epsilon=1e-5)
LLAMA3 = LLAMA2 | dict(positions=8192, rope=Rope(500_000.0))
LLAMA32 = LLAMA3 | dict(positions=131_072, rope=Rope(500_000.0, "llama3", llama3_scaling(32.0)), tied=True)
MISTRAL = dict(family="mistral", positions=32_768, epsilon=1e-5, spans=("local",), window=4096)
QWEN2 = dict(family="qwen2", positions=131_072, epsilon=1e-6, rope=Rope(1_000_000.0), qkv_bias=True)
QWEN3 = dict(family="qwen3", positions=32_768, epsilon=1e-6, rope=Rope(1_000_000.0), qk_norm=True)
GEMMA = dict(family="gemma", positions=8192, epsilon=1e-6, act="gelu_pytorch_tanh", norm_offset=True,
             scale_embedding=True, tied=True)
GEMMA2 = GEMMA | dict(family="gemma2", norms="sandwich", spans=("local", "full"), window=4096, attention_cap=50.0,
                      logit_cap=30.0, attention_scale=256**-0.5)
GEMMA3 = GEMMA | dict(family="gemma3_text", norms="sandwich", qk_norm=True, spans=("local",) * 5 + ("full",),
                      window=512, positions=32_768, rope=Rope(1_000_000.0), local_rope=Rope(10_000.0),
                      attention_scale=256**-0.5)
GEMMA3_LONG = GEMMA3 | dict(window=1024, positions=131_072, rope=Rope(1_000_000.0, "linear", (("factor", 8.0),)))
DEBUG = _sizes(64, 160, 2, 4, 2, 16, positions=128)
LOCAL_DEBUG = DEBUG | dict(depth=4, window=8, attention_scale=24**-0.5)

# Touvron et al. 2023, Grattafiori et al. 2024, Jiang et al. 2023, Qwen 2024 and 2025, Gemma Team 2024, 2024b and 2025:
# the tables of architecture, and the published config.json for what they leave out.
VARIANTS: dict[str, dict[str, Any]] = {
    "debug": LLAMA3 | DEBUG,
    "debug-mistral": MISTRAL | DEBUG | dict(window=8),
    "debug-qwen2": QWEN2 | DEBUG | dict(tied=True),
    "debug-qwen3": QWEN3 | DEBUG,
    "debug-gemma": GEMMA | DEBUG | dict(kv_heads=1),
    "debug-gemma2": GEMMA2 | LOCAL_DEBUG | dict(attention_cap=2.0, logit_cap=12.0),
    "debug-gemma3": GEMMA3 | LOCAL_DEBUG | dict(spans=("local", "local", "full")),
    "llama2-7b": LLAMA2 | _sizes(4096, 11_008, 32, 32, 32, 128),
    "llama2-13b": LLAMA2 | _sizes(5120, 13_824, 40, 40, 40, 128),
    "llama2-70b": LLAMA2 | _sizes(8192, 28_672, 80, 64, 8, 128),
    "llama3-8b": LLAMA3 | _sizes(4096, 14_336, 32, 32, 8, 128),
    "llama3-70b": LLAMA3 | _sizes(8192, 28_672, 80, 64, 8, 128),
    "llama3.2-1b": LLAMA32 | _sizes(2048, 8192, 16, 32, 8, 64),
    "llama3.2-3b": LLAMA32 | _sizes(3072, 8192, 28, 24, 8, 128),
    "mistral-7b": MISTRAL | _sizes(4096, 14_336, 32, 32, 8, 128),
    "qwen2-0.5b": QWEN2 | _sizes(896, 4864, 24, 14, 2, 64, tied=True),
    "qwen2-1.5b": QWEN2 | _sizes(1536, 8960, 28, 12, 2, 128, tied=True),
    "qwen2-7b": QWEN2 | _sizes(3584, 18_944, 28, 28, 4, 128),
    "qwen2-72b": QWEN2 | _sizes(8192, 29_568, 80, 64, 8, 128, epsilon=1e-5),
    "qwen3-0.6b": QWEN3 | _sizes(1024, 3072, 28, 16, 8, 128, tied=True),
    "qwen3-1.7b": QWEN3 | _sizes(2048, 6144, 28, 16, 8, 128, tied=True),
    "qwen3-4b": QWEN3 | _sizes(2560, 9728, 36, 32, 8, 128, tied=True),
    "qwen3-8b": QWEN3 | _sizes(4096, 12_288, 36, 32, 8, 128),
    "qwen3-14b": QWEN3 | _sizes(5120, 17_408, 40, 40, 8, 128),
    "qwen3-32b": QWEN3 | _sizes(5120, 25_600, 64, 64, 8, 128),
    "gemma-2b": GEMMA | _sizes(2048, 16_384, 18, 8, 1, 256),
    "gemma-7b": GEMMA | _sizes(3072, 24_576, 28, 16, 16, 256),
    "gemma2-2b": GEMMA2 | _sizes(2304, 9216, 26, 8, 4, 256),
    "gemma2-9b": GEMMA2 | _sizes(3584, 14_336, 42, 16, 8, 256),
    "gemma2-27b": GEMMA2 | _sizes(4608, 36_864, 46, 32, 16, 128, attention_scale=144**-0.5),
    "gemma3-270m": GEMMA3 | _sizes(640, 2048, 18, 4, 1, 256),
    "gemma3-1b": GEMMA3 | _sizes(1152, 6912, 26, 4, 1, 256),
    "gemma3-4b": GEMMA3_LONG | _sizes(2560, 10_240, 34, 8, 4, 256),
    "gemma3-12b": GEMMA3_LONG | _sizes(3840, 15_360, 48, 16, 8, 256),
    "gemma3-27b": GEMMA3_LONG | _sizes(5376, 21_504, 62, 32, 16, 128, attention_scale=168**-0.5),
}


class Decoder(nnx.Module):
  """The network. Call it through `Model.apply`."""

  def __init__(self, rngs: nnx.Rngs, config: DecoderConfig):
    self.config = config
    self.tokens = Embedding(rngs, config.vocab_size, config.width, dtype=jnp.dtype(config.dtype))
    self.blocks = stack(lambda r: _block(r, config), config.depth, rngs)
    self.final_norm = _norm(rngs, config)
    self.head = output_heads.lm_head(rngs, config.head, config.width, config.vocab_size, config.tied)
    self.classifier = output_heads.classifier(rngs, config.head, config.width, config.labels, config.pad_token)

  def __call__(self, input_ids: jax.Array, *, attention_mask: jax.Array | None = None,
               position_ids: jax.Array | None = None, segment_ids: jax.Array | None = None,
               cache: kv.Cache | None = None, key: jax.Array | None = None,
               output_hidden_states: bool = False) -> Output:
    """input_ids (B, L), the other arrays too; see layers/decoding.py for their meaning."""
    config = self.config
    inputs = decoding.prepare(input_ids, attention_mask, position_ids, segment_ids, cache,
                              padding_reads=config.head == "question")
    embed_key, layers_key = split(key, 2)
    x = self.tokens(input_ids)
    if config.scale_embedding:
      x = x * jnp.asarray(config.width**0.5, x.dtype)  # rounded to the compute dtype, as the published models were run
    x = constrain(dropout(x, config.dropout, embed_key), "batch", "length", "width")
    x, cache, hidden_states = self._layers(x, inputs, layers_key, output_hidden_states)
    x = self.final_norm(x)
    if hidden_states is not None:
      hidden_states = (*hidden_states, x)
    return output_heads.output(config.head, self.classifier, x, input_ids, self.unembed, cache=cache,
                               hidden_states=hidden_states)

  def _layers(self, x, inputs: decoding.DecoderInputs, key, collect: bool):
    config = self.config
    kinds = _kinds(config)
    rotations = {rope: _rotation(config, rope, inputs.positions) for _, rope in set(kinds)}

    def call(block, carry, layer, kind, key):
      x, cache = carry
      window, rope = kind
      visibility = Visibility(window=window, segments=inputs.segments, offset=inputs.offset)
      return block(x, visibility, rotations[rope], cache=cache, layer=layer, key=key)
    keys = None if key is None else jax.random.split(key, config.depth)
    (x, cache), kept = layer_stack.run(self.blocks, (x, inputs.cache), call, kinds=kinds, scan=config.scan,
                                       remat=config.remat, per_layer=keys,
                                       collect=(lambda carry: carry[0]) if collect else None)
    cache = None if cache is None else kv.advance(cache, x.shape[1])
    return x, cache, None if kept is None else tuple(kept)

  def unembed(self, hidden: jax.Array) -> jax.Array:
    """(..., D) -> (..., V) scores, capped where the config says so."""
    scores = self.tokens.attend(hidden) if self.head is None else self.head(hidden)
    cap = self.config.logit_cap
    return scores if cap is None else cap * jnp.tanh(scores / cap)

  def init_cache(self, batch: int, length: int) -> kv.Cache:
    """An empty cache for `batch` rows of at most `length` tokens."""
    c = self.config
    return kv.init_cache(c.depth, batch, length, c.kv_heads, c.head_width, jnp.dtype(c.dtype))


def _kinds(c: DecoderConfig) -> list[tuple[int | None, Rope]]:
  """(window, rope) of each layer."""
  of_span = {"full": (None, c.rope), "local": (c.window, c.local_rope or c.rope)}
  return [of_span[c.spans[i % len(c.spans)]] for i in range(c.depth)]


def _rotation(c: DecoderConfig, rope: Rope, positions_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
  frequencies, factor = inverse_frequencies(rope, c.head_width, positions_BL.max() + 1, c.positions)
  return rotation(positions_BL, jnp.asarray(frequencies), factor)


def _norm(rngs: nnx.Rngs, c: DecoderConfig) -> RMSNorm:
  return RMSNorm(rngs, c.width, epsilon=c.epsilon, offset=c.norm_offset)


def _block(rngs: nnx.Rngs, c: DecoderConfig) -> Block:
  residual = normal(0.02 / (2 * c.depth) ** 0.5)  # as GPT-2: residual projections shrink with depth
  options = AttentionOptions(scale=c.attention_scale, soft_cap=c.attention_cap, dropout=c.attention_dropout,
                             implementation=c.attention)
  attention = Attention(rngs, c.width, c.heads, c.head_width, kv_heads=c.kv_heads, bias=c.qkv_bias, out_bias=c.out_bias,
                        qk_norm=dict(epsilon=c.epsilon, offset=c.norm_offset) if c.qk_norm else None,
                        out_init=residual, options=options)
  feed_forward = FeedForward(rngs, c.width, c.hidden, act=c.act, gated=True, bias=c.mlp_bias, out_init=residual)
  return Block(partial(_norm, rngs, c), attention, feed_forward, norms=c.norms, dropout=c.dropout,
               split_remat=c.remat == "split")


def from_config(config: DecoderConfig) -> Model:
  """The model of this config.

  Raises:
    ConfigError: sizes that do not fit together, an unknown activation, rope scaling or remat policy.
  """
  check_counts("config.model", width=config.width, depth=config.depth, heads=config.heads, kv_heads=config.kv_heads,
               head_width=config.head_width, hidden=config.hidden, window=config.window)
  check_rate(config.dropout)
  if config.heads % config.kv_heads:
    raise ConfigError("config.model.kv_heads", f"{config.kv_heads} key heads do not divide {config.heads} heads",
                      accepted=f"a divisor of {config.heads}")
  if config.head_width % 2:
    raise ConfigError("config.model.head_width", f"rotary positions need an even width, got {config.head_width}")
  if "local" in config.spans and config.window is None:
    raise ConfigError("config.model.window", "local layers need a window", accepted="a number of tokens")
  for rope in {rope for _, rope in _kinds(config)}:
    inverse_frequencies(rope, config.head_width, 1, config.positions)
  activation(config.act, "config.model.act")
  layer_stack.check_policy(config.remat)
  return Model.from_module(lambda rngs: Decoder(rngs, config), config, offers=output_heads.OFFERS[config.head])


def build(vocab_size: int, length: int, *, variant: str = "llama3.2-1b", width: int | None = None,
          depth: int | None = None, heads: int | None = None, kv_heads: int | None = None,
          head_width: int | None = None, hidden: int | None = None, act: str | None = None, window: int | None = None,
          rope_theta: float | None = None, dropout: float = 0.0, tied: bool | None = None,
          dtype: Literal["float32", "bfloat16"] = "float32", remat: str = "none", scan: bool = True,
          attention: Implementation = "auto") -> Model:
  """A decoder of the Llama family for `vocab_size` tokens and rows of `length`.

  Args:
    variant: published size: llama2-7b, llama3-8b, llama3.2-1b, mistral-7b, qwen2-0.5b, qwen3-0.6b, gemma-2b, gemma2-2b,
      gemma3-1b and their larger ones; debug and debug-FAMILY run anywhere.
    width: model width D; None takes the variant's, as for the next ones.
    depth: number of layers.
    heads: query heads.
    kv_heads: key and value heads, a divisor of `heads`.
    head_width: width of a head.
    hidden: feed-forward width.
    act: activation of the gate, by Hugging Face's names.
    window: tokens that local layers see.
    rope_theta: base of the rotary positions (of the global layers).
    dropout: rate on embeddings, residuals and attention weights.
    tied: share the token embedding with the output head.
    dtype: compute type; parameters, norms, softmax and loss stay float32.
    remat: what the backward pass recomputes: none, full, dots, dots_no_batch, offload_dots, split.
    scan: one compiled period of layers run in a loop; False unrolls.
    attention: implementation behind the attention door.
  """
  if variant not in VARIANTS:
    raise unknown_name("config.model.variant", variant, list(VARIANTS))
  given = dict(width=width, depth=depth, heads=heads, kv_heads=kv_heads, head_width=head_width, hidden=hidden, act=act,
               window=window, tied=tied)
  sizes = VARIANTS[variant] | {k: v for k, v in given.items() if v is not None}
  if rope_theta is not None:
    sizes["rope"] = dataclasses.replace(sizes.get("rope", Rope()), theta=rope_theta)
  sizes["positions"] = max(sizes["positions"], length)
  return from_config(DecoderConfig(vocab_size=vocab_size, dropout=dropout, attention_dropout=dropout, dtype=dtype,
                                   remat=remat, scan=scan, attention=attention, **sizes))
