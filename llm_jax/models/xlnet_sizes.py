"""The architectures of XLNet that have been published, and what describes one: widths and counts, no training settings.
"""

import dataclasses
from typing import Any, Literal

from llm_jax.layers.dot_product import Implementation
from llm_jax.layers.encoder_heads import EncoderHead

# "lm": every token's scores; "choice": one score per choice; "none": the bare network.
Summary = Literal["last", "first", "mean", "cls_index"]


@dataclasses.dataclass(frozen=True)
class XLNetConfig:
  """One architecture of the family. Names of the switches are Hugging Face's."""

  vocab_size: int
  width: int = 768
  depth: int = 12
  heads: int = 12
  head_width: int | None = None  # None: width / heads
  hidden: int = 3072
  act: str = "gelu"
  epsilon: float = 1e-12
  dropout: float = 0.0
  attn_type: Literal["bi", "uni"] = "bi"  # 'uni': a token sees itself and what is before it (Transformer-XL)
  bi_data: bool = False  # the second half of the rows run backwards
  clamp_len: int = -1  # distance from which on all are alike; -1: none
  same_length: bool = False  # with 'uni': every token sees as many
  mem_len: int | None = None  # tokens kept of earlier segments; None or 0: all of them
  reuse_len: int | None = None  # tokens of a segment that are kept; None or 0: all of them
  use_mems_eval: bool = True
  use_mems_train: bool = False
  summary: Summary = "last"  # what heads for whole sequences read
  summary_dense: bool = True
  summary_act: str | None = "tanh"
  tied: bool = True
  head: EncoderHead = "lm"
  labels: int = 2
  carried: str = "{}"  # JSON of config.json keys that change no number (token ids, names of labels)
  dtype: str = "float32"
  remat: str = "none"
  scan: bool = True
  attention: Implementation = "auto"


# Yang et al. 2019, appendix A.
VARIANTS: dict[str, dict[str, Any]] = {
    "debug": dict(width=64, depth=2, heads=4, hidden=128),
    "base": dict(width=768, depth=12, heads=12, hidden=3072),
    "large": dict(width=1024, depth=24, heads=16, hidden=4096),
}
