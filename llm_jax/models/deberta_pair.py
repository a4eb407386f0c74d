"""DeBERTa 3's pre-training pair (He, Gao and Chen 2023): a generator of masked words, a discriminator of replaced ones.

Both have an embedding table of the vocabulary. Learning one table from both losses pulls it two ways; learning two
apart wastes what the generator knows. Gradient-disentangled sharing lets the discriminator read the generator's table
without moving it, and adds a table of its own that starts at zero: E_D = stop_gradient(E_G) + E_delta (section 3.2).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
from flax import nnx

from llm_jax.core.errors import check_counts
from llm_jax.core.model import Model
from llm_jax.core.output import Output
from llm_jax.core.pair import Pair
from llm_jax.core.sizes import chosen, with_positions
from llm_jax.core.types import Params
from llm_jax.layers.dot_product import Implementation
from llm_jax.models import deberta
from llm_jax.models.deberta_config import VARIANTS as SIZES
from llm_jax.models.deberta_config import DebertaConfig, check

Sharing = Literal["gdes", "shared", "apart"]

# The generator has the discriminator's width and half its depth (He, Gao and Chen 2023, section 4.1).
VARIANTS: dict[str, dict[str, Any]] = {
    "debug": SIZES["debug"], **{n.removeprefix("v3-"): SIZES[n] for n in SIZES if n.startswith("v3-")}}


@dataclasses.dataclass(frozen=True)
class PairConfig:
  """The two networks, and how the discriminator gets its embeddings (see `build`)."""

  generator: DebertaConfig
  discriminator: DebertaConfig
  sharing: Sharing = "gdes"


class DebertaPair(nnx.Module):
  """The two networks. Call their methods through `Model.apply(params, method='generator')`."""

  def __init__(self, rngs: nnx.Rngs, config: PairConfig):
    self.config = config
    self.masked = deberta.Deberta(rngs, config.generator)
    start = jax.nn.initializers.zeros if config.sharing == "gdes" else None
    self.replaced = deberta.Deberta(rngs, config.discriminator, own_table=config.sharing != "shared", table_init=start)

  def generator(self, input_ids: jax.Array, **inputs: Any) -> Output:
    """Scores of masked words, of the inputs of models/deberta.py."""
    return self.masked(input_ids, **inputs)

  def discriminator(self, input_ids: jax.Array, **inputs: Any) -> Output:
    """`scores` (B, L): logits of 'this token was replaced'."""
    if self.config.sharing == "apart":
      return self.replaced(input_ids, **inputs)
    seen = self.masked.tokens(input_ids)
    seen = jax.lax.stop_gradient(seen) if self.config.sharing == "gdes" else seen
    return self.replaced(input_ids, added_BLD=seen, **inputs)

  def __call__(self, input_ids: jax.Array, **inputs: Any) -> Output:
    """The discriminator, which is what is kept after pre-training."""
    return self.discriminator(input_ids, **inputs)


def halves(model: Model, params: Mapping[str, Any]) -> dict[str, tuple[Model, Params]]:
  """{'generator', 'discriminator': (model of models/deberta.py, its own parameters)}: what is fine-tuned, or saved in
  Hugging Face's form; the discriminator's table is the sum that it was trained with."""
  config: PairConfig = model.config
  part = lambda name: {n.removeprefix(f"{name}."): a for n, a in params.items() if n.startswith(f"{name}.")}
  masked, replaced = part("masked"), part("replaced")
  if config.sharing != "apart":
    own, table = replaced.get("tokens.embedding"), masked["tokens.embedding"]
    replaced["tokens.embedding"] = table if own is None else own + table
  return {"generator": (deberta.from_config(config.generator), dict(sorted(masked.items()))),
          "discriminator": (deberta.from_config(config.discriminator), dict(sorted(replaced.items())))}


PAIR = Pair(PairConfig, halves)


def from_config(config: PairConfig) -> Model:
  """The model of this config.

  Raises:
    ConfigError: see models/deberta_config.py.
  """
  for half in (config.generator, config.discriminator):
    check(half)
  return Model.from_module(lambda rngs: DebertaPair(rngs, config), config, offers=("replaced_token",))


def build(vocab_size: int, length: int, *, variant: str = "base", width: int | None = None, depth: int | None = None,
          heads: int | None = None, hidden: int | None = None, generator_depth: int | None = None,
          positions: int | None = None, sharing: Sharing = "gdes", enhanced_decoder: bool = True, dropout: float = 0.0,
          dtype: Literal["float32", "bfloat16"] = "float32", remat: str = "none", scan: bool = True,
          attention: Implementation = "auto") -> Model:
  """DeBERTa 3's generator and discriminator for `vocab_size` tokens and rows of `length`.

  Args:
    variant: published size of the discriminator: debug, xsmall, small, base, large.
    width: model width D of both; None takes the variant's, as for the next ones.
    depth: layers of the discriminator.
    heads: attention heads of both.
    hidden: feed-forward width of both.
    generator_depth: layers of the generator; None: half of the discriminator's.
    positions: longest sequence; at least the training length.
    sharing: of the token embeddings: 'gdes' reads the generator's without moving it and adds its own; 'shared' is one
      table that both losses move (ELECTRA's); 'apart' is two.
    enhanced_decoder: the generator predicts with the mask decoder, which alone sees absolute positions.
    dropout: rate on embeddings, residuals and attention weights.
    dtype: compute type; parameters, norms, softmax and loss stay float32.
    remat: what the backward pass recomputes: none, full, dots, dots_no_batch, offload_dots, split.
    scan: one compiled layer run in a loop; False unrolls (slower to compile, a few percent faster to run).
    attention: implementation behind the attention door; relative positions need 'auto' or 'xla'.
  """
  sizes = chosen(VARIANTS, variant, width=width, depth=depth, heads=heads, hidden=hidden)
  check_counts("config.model", depth=sizes["depth"], generator_depth=generator_depth)
  sizes = with_positions(sizes, length, positions)
  settings: dict[str, Any] = dict(vocab_size=vocab_size, dropout=dropout, attention_dropout=dropout, dtype=dtype,
                                  remat=remat, scan=scan, attention=attention)
  discriminator = DebertaConfig(head="replaced", **settings, **sizes)
  sizes["depth"] = generator_depth or max(sizes["depth"] // 2, 1)
  generator = DebertaConfig(enhanced_decoder=enhanced_decoder, **settings, **sizes)
  return from_config(PairConfig(generator, discriminator, sharing))
