"""Permutation language modelling, the training of XLNet (Yang et al. 2019, sections 2.2 to 2.4): predict tokens in a
random order of factorisation, each from those that come before it in that order, wherever they stand.

Only the last 1 / K of the order is predicted, in spans of one to five words, the last one cut to that share; the rest
of the row is what they all see.
Inputs are Hugging Face's: perm_mask (B, L, L), 1 where token i does not see token j, and target_mapping (B, P, L).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params, Vocabulary
from llm_jax.objectives.cross_entropy import means, token_cross_entropy
from llm_jax.objectives.masking import Masking, choose, first_positions, units
from llm_jax.objectives.text_rows import is_text, real_tokens, row_keys, two_keys


@dataclasses.dataclass(frozen=True)
class PermutationLM(Objective):
  """Cross-entropy in nats of each predicted token, (B, P) in the order of the text; metric `accuracy`."""

  share: float
  spans: Masking
  chunk: int | str
  tokenizer: Vocabulary | None = None
  fields: tuple[str, ...] = ("tokens", "weights")
  needs: tuple[str, ...] = ("permutation",)
  carries: bool = True

  def for_tokenizer(self, tokenizer: Vocabulary) -> "PermutationLM":
    return dataclasses.replace(self, tokenizer=tokenizer)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    order_key, model_key = two_keys(key)
    tokens_BL = batch["tokens"]
    chosen_BL, perm_mask_BLL = self.factorised(batch, order_key)
    place_BP, real_BP = first_positions(chosen_BL, self.spans.most(tokens_BL.shape[1], {}))
    mapping_BPL = jax.nn.one_hot(place_BP, tokens_BL.shape[1], dtype=jnp.float32)
    carried = dict(cache=batch["carry"], segment_ids=batch.get("segment_ids")) if "carry" in batch else {}
    output = apply(params, input_ids=tokens_BL, attention_mask=real_tokens(batch).astype(jnp.int32),
                   perm_mask=perm_mask_BLL, target_mapping=mapping_BPL, key=model_key, **carried)
    targets_BP = jnp.take_along_axis(tokens_BL, place_BP, axis=1)
    values, extras = token_cross_entropy(output.hidden, output.unembed, targets_BP, chunk=self.chunk, accuracy=True)
    weights = real_BP.astype(jnp.float32)
    return Losses(values, weights, means(extras, weights) | output.metrics, output.auxiliary,
                  carry=output.cache if carried else None)

  def factorised(self, batch: Batch, key: Key | None) -> tuple[jax.Array, jax.Array]:
    """Which tokens are predicted, (B, L) bool, and perm_mask (B, L, L) float32.

    A token that is not predicted sees all such tokens of its document and no predicted one; a predicted one also those
    that come before it in the order. Whether a token sees itself is the model's affair: its content does.
    """
    tokenizer = self.tokenizer
    assert tokenizer is not None
    text_BL = is_text(batch, tokenizer)
    keys_B3 = jax.vmap(lambda k: jax.random.split(k, 3))(row_keys(key, batch["tokens"]))
    unit_BL = units(self.spans, tokenizer, batch, text_BL, keys_B3[:, 0])
    wanted_B = jnp.clip(jnp.floor(self.share * text_BL.sum(1) + 0.5), 1, self.spans.most(text_BL.shape[1], {}))
    chosen_BL = jax.vmap(choose)(keys_B3[:, 1], unit_BL, text_BL, wanted_B)
    order_BL = jax.vmap(lambda k: jax.random.permutation(k, text_BL.shape[1]))(keys_B3[:, 2])
    order_BL = jnp.where(chosen_BL, order_BL, -1)
    hidden_BLL = chosen_BL[:, None, :] & (order_BL[:, :, None] <= order_BL[:, None, :])
    if "segment_ids" in batch:
      hidden_BLL |= batch["segment_ids"][:, :, None] != batch["segment_ids"][:, None, :]
    return chosen_BL, hidden_BLL.astype(jnp.float32)


def build(*, last: float = 6.0, longest: int = 5, chunk: int | str = "auto") -> PermutationLM:
  """Permutation language modelling.

  Args:
    last: K: one token in so many is predicted, the last ones of the order.
    longest: words in a predicted span at most; n words have a probability in proportion to 1 / n.
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.
  """
  if last < 1:
    raise ConfigError("config.objective.last", f"got {last:g}", accepted="a number from 1")
  return PermutationLM(1 / last, Masking(ratio=1 / last, unit="ngram", longest=longest), chunk)
