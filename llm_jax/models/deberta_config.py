"""What a DeBERTa is made of: the config of models/deberta.py, the published sizes, what cannot be."""

import dataclasses
from typing import Any, Literal

from llm_jax.core.errors import ConfigError, check_counts
from llm_jax.layers.dot_product import Implementation
from llm_jax.layers.dropout import check_rate
from llm_jax.layers.encoder_heads import EncoderHead
from llm_jax.layers.feed_forward import activation
from llm_jax.layers.stack import check_policy


@dataclasses.dataclass(frozen=True)
class DebertaConfig:
  """One architecture of the family; widths and counts, no training settings."""

  vocab_size: int
  form: Literal["v1", "v2"] = "v2"  # v1: keys without biases, relative positions with projections of their own
  positions: int = 512
  width: int = 768
  depth: int = 12
  heads: int = 12
  hidden: int = 3072
  act: str = "gelu"
  epsilon: float = 1e-7
  types: int = 0
  embed_width: int | None = None  # None: width
  biased_input: bool = False  # absolute positions are added to the input
  relative: bool = True
  terms: tuple[str, ...] = ("p2c", "c2p")
  span: int = -1  # longest relative distance; below 1: positions
  buckets: int = -1
  shared: bool = False  # positions go through the projections of the content
  relative_norm: bool = False
  convolution: int = 0  # its width; 0: none
  convolution_groups: int = 1
  convolution_act: str = "tanh"
  enhanced_decoder: bool = False
  dropout: float = 0.0
  attention_dropout: float = 0.0
  pooler_dropout: float = 0.0
  head_dropout: float | None = None  # None: dropout
  pooler_act: str = "gelu"
  legacy: bool = False  # Hugging Face's first layout of the masked LM head
  tied: bool = True
  head: EncoderHead = "lm"
  labels: int = 2
  pad_token: int | None = 0
  carried: str = "{}"  # JSON of config.json keys that change no number (token ids, names of labels)
  dtype: str = "float32"
  remat: str = "none"
  scan: bool = True
  attention: Implementation = "auto"

  @property
  def longest(self) -> int:
    """The longest relative distance that has a meaning of its own."""
    return self.span if self.span > 0 else self.positions

  @property
  def rows(self) -> int:
    """Relative positions on either side that the table has a row for."""
    return self.buckets if self.buckets > 0 else self.longest


# He et al. 2021, table 8 and the released configs; He, Gao and Chen 2023, section 5 and the released configs.
V1: dict[str, Any] = dict(form="v1")
V2: dict[str, Any] = dict(form="v2", buckets=256, shared=True, relative_norm=True)
XLARGE2 = V2 | dict(width=1536, heads=24, hidden=6144, convolution=3, convolution_act="gelu")
VARIANTS: dict[str, dict] = {
    "debug": dict(form="v2", buckets=16, shared=True, relative_norm=True, width=64, depth=2, heads=4, hidden=256,
                  positions=128),
    "base": V1 | dict(width=768, depth=12, heads=12, hidden=3072),
    "large": V1 | dict(width=1024, depth=24, heads=16, hidden=4096),
    "xlarge": V1 | dict(width=1024, depth=48, heads=16, hidden=4096),
    "v2-xlarge": XLARGE2 | dict(depth=24), "v2-xxlarge": XLARGE2 | dict(depth=48),
    "v3-xsmall": V2 | dict(width=384, depth=12, heads=6, hidden=1536),
    "v3-small": V2 | dict(width=768, depth=6, heads=12, hidden=3072),
    "v3-base": V2 | dict(width=768, depth=12, heads=12, hidden=3072),
    "v3-large": V2 | dict(width=1024, depth=24, heads=16, hidden=4096),
}


def check(c: DebertaConfig) -> None:
  """Raises ConfigError for a config that no network can have."""
  check_counts("config.model", width=c.width, depth=c.depth, heads=c.heads, hidden=c.hidden, positions=c.positions,
               embed_width=c.embed_width, convolution_groups=c.convolution_groups, labels=c.labels)
  check_rate(c.dropout)
  refuse = lambda key, problem, accepted: ConfigError(f"config.model.{key}", problem, accepted=accepted)
  if c.width % c.heads:
    raise refuse("heads", f"{c.heads} heads do not divide width {c.width}", f"a divisor of {c.width}")
  if set(c.terms) - {"c2p", "p2c"} or len(set(c.terms)) < len(c.terms):
    raise refuse("terms", f"got {c.terms!r}", "'c2p', 'p2c', both or neither, each once")
  if c.convolution and (c.convolution < 0 or c.convolution % 2 == 0):
    raise refuse("convolution", f"got {c.convolution}", "an odd number of tokens, or 0 for none")
  if c.width % c.convolution_groups:
    raise refuse("convolution_groups", f"{c.convolution_groups} do not divide width {c.width}", "a divisor of it")
  if c.buckets == 1:
    raise refuse("buckets", f"got {c.buckets}", "from 2, or -1 for none")
  if c.enhanced_decoder and (c.biased_input or (c.convolution and c.depth < 2)):
    raise refuse("enhanced_decoder", "the mask decoder wants positions that are not in the input yet, and a layer of "
                 "its own beside the convolution's", "biased_input=False; depth from 2 with a convolution")
  if c.embed_width not in (None, c.width) and (c.enhanced_decoder or (c.head == "lm" and not c.legacy)):
    raise refuse("embed_width", f"{c.embed_width} in a model of width {c.width}", "the model's width, or legacy=True")
  if c.head in ("pretraining", "next_sentence"):
    raise refuse("head", f"got {c.head!r}", "lm, sequence, token, question, choice, replaced, none")
  for act in (c.act, c.convolution_act, c.pooler_act):
    activation(act, "config.model.act")
  check_policy(c.remat)
