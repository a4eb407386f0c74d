"""Replaced token detection, the training of ELECTRA (Clark et al. 2020, section 3.1): a small generator fills in masked
tokens, and the discriminator says of every token whether it was put there.

    loss = masked_lm(generator) + weight * binary cross-entropy(discriminator)

The generator's tokens are drawn from its distribution (by Gumbel noise), nothing flows back through the draw, and one
that happens to be the original is not a replaced token.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm_jax.core.output import Output
from llm_jax.core.types import Batch, Key, Knobs, Losses, Mean, Objective, Params, Vocabulary
from llm_jax.objectives import masked_lm
from llm_jax.objectives.combined import Part, combine
from llm_jax.objectives.cross_entropy import in_chunks
from llm_jax.objectives.knob_ranges import check_positive
from llm_jax.objectives.masking import Unit, first_positions, mask
from llm_jax.objectives.text_rows import documents, real_tokens, row_keys, two_keys


@dataclasses.dataclass(frozen=True)
class ReplacedToken(Objective):
  """Both losses as values (B, 2 L); metrics: loss and accuracy of `generator` and `discriminator`, and
  `discriminator_replaced`, the share of tokens that are replaced ones."""

  masked: masked_lm.MaskedLM
  weight: float
  temperature: float
  needs: tuple[str, ...] = ("replaced_token",)

  @property
  def fields(self) -> tuple[str, ...]:  # type: ignore[override]
    return self.masked.fields

  def for_tokenizer(self, tokenizer: Vocabulary) -> "ReplacedToken":
    return dataclasses.replace(self, masked=self.masked.for_tokenizer(tokenizer))

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    corrupt_key, model_key = two_keys(key)
    mask_key, sample_key = two_keys(corrupt_key)
    generator_key, discriminator_key = two_keys(model_key)
    tokenizer, tokens_BL = self.masked.tokenizer, batch["tokens"]
    assert tokenizer is not None
    masked_BL, chosen_BL = mask(self.masked.masking, tokenizer, batch, mask_key, knobs)
    inputs = documents(batch)
    generated = apply(params, input_ids=masked_BL, **inputs, key=generator_key, method="generator")
    found = self.masked.losses(generated, tokens_BL, chosen_BL, knobs)
    most = self.masked.masking.most(tokens_BL.shape[1], knobs)
    keys_B = row_keys(sample_key, masked_BL)
    sampled_BL = filled(generated, tokens_BL, chosen_BL, most, keys_B, self.temperature, self.masked.chunk)
    judged = apply(params, input_ids=sampled_BL, **inputs, key=discriminator_key, method="discriminator")
    told = detection(judged.scores, sampled_BL != tokens_BL, real_tokens(batch))
    told = told._replace(auxiliary=judged.auxiliary)
    return combine([Part("generator", 1.0, found), Part("discriminator", self.weight, told)])


def filled(output: Output, tokens_BL: jax.Array, chosen_BL: jax.Array, most: int, keys_B: Key, temperature: float,
           chunk: int | str) -> jax.Array:
  """(B, L): the row with a token drawn from the generator in every chosen place, of which there are at most `most`."""
  place_BK, real_BK = first_positions(chosen_BL, most)
  assert output.hidden is not None and output.unembed is not None
  unembed = output.unembed
  hidden_BKD = jax.lax.stop_gradient(jnp.take_along_axis(output.hidden, place_BK[..., None], axis=1))
  keys_BK = jax.vmap(lambda key: jax.random.key_data(jax.random.split(key, most)))(keys_B)
  def draw(hidden: jax.Array, keys: jax.Array) -> jax.Array:
    logits = jax.lax.stop_gradient(unembed(hidden)).astype(jnp.float32) / temperature
    noise = jax.vmap(jax.vmap(lambda k: jax.random.gumbel(jax.random.wrap_key_data(k), logits.shape[-1:])))(keys)
    return (logits + noise).argmax(-1).astype(tokens_BL.dtype)
  drawn_BK = in_chunks(draw, unembed, hidden_BKD, keys_BK, chunk=chunk)
  kept_BK = jnp.take_along_axis(tokens_BL, place_BK, axis=1)
  return tokens_BL.at[jnp.arange(tokens_BL.shape[0])[:, None], place_BK].set(jnp.where(real_BK, drawn_BK, kept_BK))


def detection(scores_BL: jax.Array, replaced_BL: jax.Array, real_BL: jax.Array) -> Losses:
  """Binary cross-entropy in nats of every real token: was it replaced?"""
  scores_BL = scores_BL.astype(jnp.float32)
  values = jax.nn.softplus(jnp.where(replaced_BL, -scores_BL, scores_BL))
  weights = real_BL.astype(jnp.float32)
  right = jax.lax.stop_gradient(((scores_BL > 0) == replaced_BL) * weights).sum()
  share = (replaced_BL * weights).sum()
  return Losses(values, weights, {"accuracy": Mean(right, weights.sum()), "replaced": Mean(share, weights.sum())})


def build(*, weight: float = 50.0, temperature: float = 1.0, ratio: float = 0.15, unit: Unit = "token",
          longest: int | None = None, mask_share: float = 0.85, bound: float | None = None,
          chunk: int | str = "auto") -> ReplacedToken:
  """Replaced token detection with a generator that is trained beside it.

  Args:
    weight: of the discriminator's mean loss, beside 1 for the generator's.
    temperature: of the generator's draw.
    ratio: share of the tokens of text that the generator fills in (0.25 for ELECTRA-Large).
    unit: what is masked as a whole: token, word, ngram, span or phrase, see masked_lm.
    longest: words in an n-gram (3) or span (10) at most.
    mask_share: of those tokens, how many the generator sees as the mask token; it sees the rest as they are.
    bound: largest share of a row that can be masked, see masked_lm.
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.
  """
  for name, value in (("weight", weight), ("temperature", temperature)):
    check_positive(name, value)
  masked = masked_lm.build(ratio=ratio, unit=unit, longest=longest, mask_share=mask_share, random_share=0.0,
                           bound=bound, chunk=chunk)
  return ReplacedToken(masked, weight, temperature)
