"""What an ERNIE with knowledge is made of: the config of models/ernie_knowledge.py, its sizes, what cannot be."""

import dataclasses
from typing import Any, Literal

from llm_jax.core.errors import ConfigError, check_counts
from llm_jax.layers.dot_product import Implementation
from llm_jax.layers.dropout import check_rate
from llm_jax.layers.feed_forward import activation
from llm_jax.layers.stack import check_policy

Head = Literal["pretraining", "sequence", "token", "none"]
KINDS = ("sim", "mix", "norm")  # the released names: tokens alone; both streams; and with attention among entities
# What a model with each head can be trained for, in the words of core/offers.py.
OFFERS: dict[str, tuple[str, ...]] = {"pretraining": ("masked", "next_sentence", "entities"), "sequence": ("classes",),
                                      "token": ("token_classes",), "none": ()}


@dataclasses.dataclass(frozen=True)
class ErnieKnowledgeConfig:
  """One architecture of the family; widths and counts, no training settings."""

  vocab_size: int
  positions: int = 512
  types: int = 2
  width: int = 768
  heads: int = 12
  hidden: int = 3072
  entity_width: int = 100
  entity_heads: int = 4
  layers: tuple[str, ...] = ("sim",) * 5 + ("mix",) + ("norm",) * 6
  act: str = "gelu"
  epsilon: float = 1e-12
  dropout: float = 0.0
  attention_dropout: float = 0.0
  tied: bool = True
  head: Head = "pretraining"
  labels: int = 2
  carried: str = "{}"  # JSON of config.json keys that change no number (token ids, names of labels)
  dtype: str = "float32"
  remat: str = "none"
  scan: bool = True
  attention: Implementation = "auto"


# Zhang et al. 2019, section 4.1, and the released config.
VARIANTS: dict[str, dict[str, Any]] = {
    "debug": dict(width=64, heads=4, hidden=256, positions=128, entity_width=32, layers=("sim", "mix", "norm")),
    "base": {},
}


def check(c: ErnieKnowledgeConfig) -> None:
  """Raises ConfigError for a config that no network can have."""
  check_counts("config.model", width=c.width, heads=c.heads, hidden=c.hidden, positions=c.positions, types=c.types,
               entity_width=c.entity_width, entity_heads=c.entity_heads, labels=c.labels)
  check_rate(c.dropout)
  for name, heads, width in (("heads", c.heads, c.width), ("entity_heads", c.entity_heads, c.entity_width)):
    if width % heads:
      raise ConfigError(f"config.model.{name}", f"{heads} heads do not divide width {width}",
                        accepted=f"a divisor of {width}")
  if not c.layers or set(c.layers) - set(KINDS):
    raise ConfigError("config.model.layers", f"got {c.layers!r}", accepted=f"one or more of {', '.join(KINDS)}")
  activation(c.act, "config.model.act")
  check_policy(c.remat)
