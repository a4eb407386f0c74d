"""Prefix language modelling: read the beginning of a row, write the rest (Raffel et al. 2020, section 3.2.3).

The row is cut at a place drawn evenly. An encoder reads the prefix and a decoder writes what follows; a causal model
reads the whole row, the prefix from both sides if it can, and is trained on what follows alone.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params, Vocabulary
from llm_jax.objectives import source_and_target
from llm_jax.objectives.cross_entropy import means, token_cross_entropy
from llm_jax.objectives.source_and_target import Form, SourceTarget
from llm_jax.objectives.text_rows import documents, real_tokens, row_keys, special_id, two_keys


@dataclasses.dataclass(frozen=True)
class PrefixLM(Objective):
  """Cross-entropy in nats per token behind the prefix; metric `accuracy`."""

  form: Form
  chunk: int | str
  tokenizer: Vocabulary | None = None

  @property
  def fields(self) -> tuple[str, ...]:  # type: ignore[override]
    return ("tokens", "weights") if self.form == "encoder_decoder" else ("tokens", "targets", "weights")

  @property
  def needs(self) -> tuple[str, ...]:  # type: ignore[override]
    return (self.form,)

  def for_tokenizer(self, tokenizer: Vocabulary) -> "PrefixLM":
    if self.form == "encoder_decoder":
      source_and_target.check(tokenizer)
    return dataclasses.replace(self, tokenizer=tokenizer)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    cut_key, model_key = two_keys(key)
    size_B = real_tokens(batch).sum(1)
    draw = lambda key, size: jax.random.randint(key, (), 1, jnp.maximum(size, 2))
    cut_B = jax.vmap(draw)(row_keys(cut_key, batch["tokens"]), size_B)
    if self.form == "encoder_decoder":
      assert self.tokenizer is not None
      made = halves(batch["tokens"], cut_B, size_B, self.tokenizer)
      return source_and_target.losses(self.form, apply, params, made, self.tokenizer, model_key, chunk=self.chunk)
    both = dict(prefix_length=cut_B) if self.form == "prefix" else {}
    output = apply(params, input_ids=batch["tokens"], **documents(batch), **both, key=model_key)
    values, extras = token_cross_entropy(output.hidden, output.unembed, batch["targets"], chunk=self.chunk,
                                         accuracy=True)
    weights = batch["weights"] * (jnp.arange(values.shape[1]) >= cut_B[:, None] - 1)
    return Losses(values, weights, means(extras, weights) | output.metrics, output.auxiliary)


def halves(tokens_BL: jax.Array, cut_B: jax.Array, size_B: jax.Array, tokenizer: Vocabulary) -> SourceTarget:
  """The first `cut_B` tokens of each row and the rest of its `size_B`, both with their end."""
  end, pad = source_and_target.end_id(tokenizer), special_id(tokenizer, "pad")
  place_L = jnp.arange(tokens_BL.shape[1] + 1)
  def ended(start_B: jax.Array, size_B: jax.Array) -> jax.Array:
    place_BL = jnp.clip(start_B[:, None] + place_L, 0, tokens_BL.shape[1] - 1)
    taken_BL = jnp.take_along_axis(tokens_BL, place_BL, axis=1)
    return jnp.where(place_L < size_B[:, None], taken_BL, jnp.where(place_L == size_B[:, None], end, pad))
  rest_B = jnp.maximum(size_B - cut_B, 0)
  return SourceTarget(ended(jnp.zeros_like(cut_B), cut_B), cut_B + 1, ended(cut_B, rest_B),
                      jnp.where(rest_B > 0, rest_B + 1, 0))


def build(*, form: Form = "prefix", chunk: int | str = "auto") -> PrefixLM:
  """Prefix language modelling.

  Args:
    form: prefix: tokens of the prefix see each other; causal: they do not; or encoder_decoder.
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.
  """
  return PrefixLM(form, chunk)
