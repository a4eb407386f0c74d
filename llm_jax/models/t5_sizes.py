"""The architectures of T5 that have been published, and what describes one: widths and counts, no training settings."""

import dataclasses
from typing import Any, Literal

from llm_jax.layers.dot_product import Implementation

Head = Literal["lm", "sequence", "token", "question", "encoder", "none"]
@dataclasses.dataclass(frozen=True)
class T5Config:
  """One architecture of the family; widths and counts, no training settings."""

  vocab_size: int
  width: int = 512
  depth: int = 6
  decoder_depth: int | None = None  # None: as the encoder
  heads: int = 8
  head_width: int = 64
  hidden: int = 2048
  act: str = "relu"
  gated: bool = False
  buckets: int = 32  # of distances
  furthest: int = 128  # distance from which on all are alike
  epsilon: float = 1e-6
  dropout: float = 0.0
  tied: bool = True
  scale_output: bool = True  # the decoder's states times width ** -0.5 before the head
  head: Head = "lm"
  labels: int = 2
  pad_token: int | None = 0
  eos_token: int | None = 1  # read by the sequence head
  start_token: int | None = 0  # that the decoder begins with; None: the tokenizer's padding
  carried: str = "{}"  # JSON of config.json keys that change no number (token ids, names of labels)
  dtype: str = "float32"
  remat: str = "none"
  scan: bool = True
  attention: Implementation = "auto"


def _sizes(width: int, depth: int, heads: int, hidden: int, head_width: int = 64) -> dict[str, Any]:
  return dict(width=width, depth=depth, heads=heads, hidden=hidden, head_width=head_width)


# Raffel et al. 2020, section 3.7; version 1.1 as released with the code of that paper.
V1_1 = dict(act="gelu_new", gated=True, tied=False, scale_output=False)
VARIANTS: dict[str, dict[str, Any]] = {
    "debug": _sizes(64, 2, 4, 128, 16),
    "debug-v1.1": V1_1 | _sizes(64, 2, 4, 96, 16),
    "small": _sizes(512, 6, 8, 2048), "base": _sizes(768, 12, 12, 3072), "large": _sizes(1024, 24, 16, 4096),
    "3b": _sizes(1024, 24, 32, 16_384, 128), "11b": _sizes(1024, 24, 128, 65_536, 128),
    "v1.1-small": V1_1 | _sizes(512, 8, 6, 1024), "v1.1-base": V1_1 | _sizes(768, 12, 12, 2048),
    "v1.1-large": V1_1 | _sizes(1024, 24, 16, 2816), "v1.1-xl": V1_1 | _sizes(2048, 24, 32, 5120),
    "v1.1-xxl": V1_1 | _sizes(4096, 24, 64, 10_240),
}
