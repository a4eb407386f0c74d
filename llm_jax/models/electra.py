"""ELECTRA (Clark et al. 2020): a small generator fills in masked tokens, a discriminator tells which it replaced.

For pre-training the two are one model that shares its embeddings; what is kept afterwards is the discriminator.
`halves` gives each as the encoder of models/bert.py that Hugging Face has, and heads for labels are that encoder's.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
from flax import nnx

from llm_jax.core.errors import ConfigError
from llm_jax.core.model import Model
from llm_jax.core.output import Output
from llm_jax.core.pair import Pair
from llm_jax.core.sizes import chosen
from llm_jax.core.types import Params
from llm_jax.layers.dot_product import Implementation
from llm_jax.models import bert
from llm_jax.models.bert_encoder import BertConfig, check, sized

Head = Literal["joint", "lm", "replaced", "sequence", "token", "question", "choice", "none"]

ELECTRA: dict[str, Any] = dict(family="electra", head_act="gelu", pooler_act="gelu", pooled=False,
                               drop_first_token=True)
# Clark et al. 2020, tables 6 and 7; `generator` is the share of the discriminator's widths and heads.
VARIANTS: dict[str, dict[str, Any]] = {
    "debug": dict(width=64, depth=2, heads=4, hidden=256, positions=128, embed_width=32, generator=0.5),
    "small": dict(width=256, depth=12, heads=4, hidden=1024, embed_width=128, generator=0.25),
    "base": dict(width=768, depth=12, heads=12, hidden=3072, embed_width=768, generator=1 / 3),
    "large": dict(width=1024, depth=24, heads=16, hidden=4096, embed_width=1024, generator=0.25),
}


@dataclasses.dataclass(frozen=True)
class ElectraConfig:
  """The two networks; shared: one set of embeddings for both (Clark et al. 2020, section 3.2)."""

  generator: BertConfig
  discriminator: BertConfig
  shared: bool = True


class Electra(nnx.Module):
  """The pair. Call its methods through `Model.apply(params, method='generator')`."""

  def __init__(self, rngs: nnx.Rngs, config: ElectraConfig):
    self.config = config
    self.replaced = bert.Bert(rngs, config.discriminator)
    self.masked = bert.Bert(rngs, config.generator, embeddings=not config.shared)

  def generator(self, input_ids: jax.Array, **inputs: Any) -> Output:
    """Scores (B, L, V) of masked tokens; inputs as those of models/bert.py."""
    return self.masked(input_ids, embeddings=self.replaced.embeddings, **inputs)

  def discriminator(self, input_ids: jax.Array, **inputs: Any) -> Output:
    """`scores` (B, L): positive where a token was replaced."""
    return self.replaced(input_ids, **inputs)

  def __call__(self, input_ids: jax.Array, **inputs: Any) -> Output:
    """The discriminator, which is what is kept."""
    return self.discriminator(input_ids, **inputs)


def halves(model: Model, params: Mapping[str, Any]) -> dict[str, tuple[Model, Params]]:
  """{'generator', 'discriminator': (model of models/bert.py, its own parameters)}."""
  config: ElectraConfig = model.config
  part = lambda name: {n.removeprefix(f"{name}."): a for n, a in params.items() if n.startswith(f"{name}.")}
  masked, replaced = part("masked"), part("replaced")
  if config.shared:
    masked |= {n: a for n, a in replaced.items() if n.startswith("embeddings.")}
  return {"generator": (bert.from_config(config.generator), dict(sorted(masked.items()))),
          "discriminator": (bert.from_config(config.discriminator), replaced)}


PAIR = Pair(ElectraConfig, halves)


def from_config(config: ElectraConfig) -> Model:
  """The model of this config.

  Raises:
    ConfigError: sizes that do not fit together.
  """
  check(config.generator)
  check(config.discriminator)
  return Model.from_module(lambda rngs: Electra(rngs, config), config, offers=("replaced_token",))


def generator_sizes(sizes: dict[str, Any], share: float) -> dict[str, Any]:
  """The sizes with widths and heads times `share`; the heads keep their width.

  Raises:
    ConfigError: not a whole number of heads.
  """
  if not 0 < share <= 1:
    raise ConfigError("config.model.generator", f"got {share}", accepted="0 < generator <= 1")
  count, head_width = max(round(sizes["heads"] * share), 1), sizes["width"] // sizes["heads"]
  if abs(sizes["heads"] * share - count) > 1e-6 and sizes["heads"] * share > 1:
    raise ConfigError("config.model.generator", f"{share} of {sizes['heads']} heads is not a whole number",
                      accepted=f"a multiple of 1/{sizes['heads']}")
  return sizes | dict(width=count * head_width, heads=count, hidden=round(sizes["hidden"] * share))


def build(vocab_size: int, length: int, *, variant: str = "small", head: Head = "joint", width: int | None = None,
          depth: int | None = None, heads: int | None = None, hidden: int | None = None, embed_width: int | None = None,
          generator: float | None = None, shared: bool = True, positions: int | None = None, labels: int = 2,
          dropout: float = 0.0, dtype: Literal["float32", "bfloat16"] = "float32", remat: str = "none",
          scan: bool = True, attention: Implementation = "auto") -> Model:
  """ELECTRA for `vocab_size` tokens and rows of `length`: the pair, or one encoder with a head.

  Args:
    variant: published size of the discriminator: debug, small, base, large.
    head: 'joint' for pre-training; else one encoder of that size: lm, replaced, sequence, token, question, choice,
      none.
    width: model width D of the discriminator; None takes the variant's, as for the next ones.
    depth: number of layers of both.
    heads: attention heads of the discriminator.
    hidden: feed-forward width of the discriminator.
    embed_width: of the embeddings of both.
    generator: share of the discriminator's widths and heads that the generator has.
    shared: the generator reads the discriminator's embeddings; False: it has its own.
    positions: rows of the position table; None: the variant's, or more for longer rows.
    labels: number of labels of the heads 'sequence' and 'token'.
    dropout: rate on embeddings, residuals and attention weights.
    dtype: compute type; parameters, norms, softmax and loss stay float32.
    remat: what the backward pass recomputes: none, full, dots, dots_no_batch, offload_dots, split, split_wide.
    scan: one compiled layer run in a loop; False unrolls (slower to compile, a few percent faster to run).
    attention: implementation behind the attention door.
  """
  sizes = sized(chosen(VARIANTS, variant, width=width, depth=depth, heads=heads, hidden=hidden, embed_width=embed_width,
                       generator=generator), length, positions)
  share = sizes.pop("generator")
  settings: dict[str, Any] = ELECTRA | dict(
      vocab_size=vocab_size, labels=labels, dropout=dropout, attention_dropout=dropout, dtype=dtype, remat=remat,
      scan=scan, attention=attention)
  if head != "joint":
    return bert.from_config(_config(settings, sizes, head))
  return from_config(ElectraConfig(_config(settings, generator_sizes(sizes, share), "lm"),
                                   _config(settings, sizes, "replaced"), shared))


def _config(settings: dict[str, Any], sizes: dict[str, Any], head: Any) -> BertConfig:
  narrow = None if sizes["embed_width"] == sizes["width"] else sizes["embed_width"]
  return BertConfig(head=head, **settings | sizes | dict(embed_width=narrow))
