"""Config of the Llama family of decoders, and its published sizes: `DecoderConfig(vocab_size, **VARIANTS[name])`."""

import dataclasses
from typing import Any, Literal

from llm_jax.layers import heads as output_heads
from llm_jax.layers.dot_product import Implementation
from llm_jax.layers.positions import Rope

Span = Literal["full", "local"]


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """One architecture of the family; widths and counts, no training settings."""

  vocab_size: int
  family: str = "llama"  # whose Hugging Face class it is, by its model_type: llama, mistral, gemma3_text, qwen3_moe ...
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
  experts: int | None = None  # of a sparse layer; None: every layer has one feed-forward block
  experts_per_token: int = 1
  expert_hidden: int | None = None  # feed-forward width of one expert; None: hidden
  normalise_experts: bool = True  # the shares of a token's experts sum to 1
  dense_layers: tuple[int, ...] = ()  # layers that have a feed-forward block all the same
  sparse_step: int = 1  # of the others, every so many is sparse
  balance_weight: float = 0.0  # of the balance loss
  router_z_weight: float = 0.0  # of the router's z-loss
  router_jitter: float = 0.0
  capacity: float | None = None  # an expert's largest load in units of the mean; None: dropless
  dropout: float = 0.0
  attention_dropout: float = 0.0
  tied: bool = False
  head: output_heads.Head = "lm"
  labels: int = 2
  pad_token: int | None = None  # its row of the table is not trained by being read
  carried: str = "{}"  # JSON of config.json keys that change no number (token ids, names of labels)
  dtype: str = "float32"
  remat: str = "none"
  scan: bool = True
  attention: Implementation = "auto"

  @property
  def windows(self) -> tuple[int | None, ...]:
    """Of each layer: how many tokens a query sees, itself included; None: all up to itself."""
    return tuple(self.window if self.spans[i % len(self.spans)] == "local" else None for i in range(self.depth))

  @property
  def sparse_layers(self) -> tuple[int, ...]:
    """Numbers of the layers with experts: those listed are dense, of the rest every so many is sparse (Qwen)."""
    sparse = lambda i: i not in self.dense_layers and (i + 1) % self.sparse_step == 0
    return tuple(i for i in range(self.depth) if sparse(i)) if self.experts else ()


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
MIXTRAL = dict(family="mixtral", positions=32_768, epsilon=1e-5, rope=Rope(1_000_000.0), experts=8,
               experts_per_token=2, balance_weight=0.02)
QWEN3_MOE = dict(family="qwen3_moe", positions=40_960, epsilon=1e-6, rope=Rope(1_000_000.0), qk_norm=True, experts=128,
                 experts_per_token=8, balance_weight=1e-3)
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

# Touvron et al. 2023, Grattafiori et al. 2024, Jiang et al. 2023 and 2024, Qwen 2024 and 2025, Gemma Team 2024, 2024b
# and 2025: the tables of architecture, and the published config.json for what they leave out.
VARIANTS: dict[str, dict[str, Any]] = {
    "debug": LLAMA3 | DEBUG,
    "debug-mistral": MISTRAL | DEBUG | dict(window=8),
    "debug-qwen2": QWEN2 | DEBUG | dict(tied=True),
    "debug-qwen3": QWEN3 | DEBUG,
    "debug-mixtral": MIXTRAL | DEBUG | dict(experts=4, hidden=96),
    "debug-qwen3-moe": QWEN3_MOE | DEBUG | dict(depth=3, experts=6, experts_per_token=3, expert_hidden=48,
                                                dense_layers=(1,)),
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
    "mixtral-8x7b": MIXTRAL | _sizes(4096, 14_336, 32, 32, 8, 128),
    "mixtral-8x22b": MIXTRAL | _sizes(6144, 16_384, 56, 48, 8, 128, positions=65_536),
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
    "qwen3-30b-a3b": QWEN3_MOE | _sizes(2048, 6144, 48, 32, 4, 128, expert_hidden=768),
    "qwen3-235b-a22b": QWEN3_MOE | _sizes(4096, 12_288, 94, 64, 4, 128, expert_hidden=1536),
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
