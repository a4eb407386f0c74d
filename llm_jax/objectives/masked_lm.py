"""Masked language modelling: find the tokens that were masked (Devlin et al. 2019), which are other ones at every step
(Liu et al. 2019, section 4.1). Scores are computed where something was masked and nowhere else."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm_jax.core.output import Output
from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params, Vocabulary
from llm_jax.objectives.cross_entropy import means, token_cross_entropy
from llm_jax.objectives.masking import Masking, Unit, first_positions, mask
from llm_jax.objectives.text_rows import documents, special_id, two_keys


@dataclasses.dataclass(frozen=True)
class MaskedLM(Objective):
  """Cross-entropy in nats per masked token, at its place in (B, L); metric `accuracy` over the masked tokens."""

  masking: Masking
  z_loss: float = 0.0
  label_smoothing: float = 0.0
  chunk: int | str = "auto"
  tokenizer: Vocabulary | None = None
  needs: tuple[str, ...] = ("masked",)

  @property
  def fields(self) -> tuple[str, ...]:  # type: ignore[override]
    return ("tokens", "weights", *self.masking.fields)

  def for_tokenizer(self, tokenizer: Vocabulary) -> "MaskedLM":
    special_id(tokenizer, "mask")
    return dataclasses.replace(self, tokenizer=tokenizer)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    corrupt_key, model_key = two_keys(key)
    assert self.tokenizer is not None
    masked_BL, chosen_BL = mask(self.masking, self.tokenizer, batch, corrupt_key, knobs)
    output = apply(params, input_ids=masked_BL, **documents(batch), key=model_key)
    return self.losses(output, batch["tokens"], chosen_BL, knobs)

  def losses(self, output: Output, targets_BL: jax.Array, chosen_BL: jax.Array, knobs: Knobs) -> Losses:
    """The losses of an output, where `chosen_BL` says so; at most `masking.most` of a row."""
    most = self.masking.most(targets_BL.shape[1], knobs)
    values, extras = at_chosen(output, targets_BL, chosen_BL, most, z_loss=self.z_loss, chunk=self.chunk,
                               label_smoothing=self.label_smoothing)
    weights = chosen_BL.astype(jnp.float32)
    return Losses(values, weights, means(extras, weights) | output.metrics, output.auxiliary)


def at_chosen(output: Output, targets_BL: jax.Array, chosen_BL: jax.Array, most: int, *, z_loss: float = 0.0,
              label_smoothing: float = 0.0, chunk: int | str = "auto") -> tuple[jax.Array, dict[str, jax.Array]]:
  """`token_cross_entropy` of at most `most` chosen tokens of each row: values and extras (B, L), 0 elsewhere."""
  B, L = targets_BL.shape
  settings = dict(z_loss=z_loss, label_smoothing=label_smoothing, chunk=chunk, accuracy=True)
  assert output.hidden is not None and output.unembed is not None
  if most >= L:
    found = token_cross_entropy(output.hidden, output.unembed, targets_BL, **settings)  # type: ignore[arg-type]
    return jax.tree.map(lambda x: jnp.where(chosen_BL, x, 0.0), found)
  place_BK, real_BK = first_positions(chosen_BL, most)
  hidden_BKD = jnp.take_along_axis(output.hidden, place_BK[..., None], axis=1)
  targets_BK = jnp.take_along_axis(targets_BL, place_BK, axis=1)
  found = token_cross_entropy(hidden_BKD, output.unembed, targets_BK, **settings)  # type: ignore[arg-type]
  rows = jnp.arange(B)[:, None]
  back = lambda x_BK: jnp.zeros((B, L), x_BK.dtype).at[rows, place_BK].set(jnp.where(real_BK, x_BK, 0.0))
  return jax.tree.map(back, found)


def build(*, ratio: float = 0.15, unit: Unit = "token", longest: int | None = None, mask_share: float = 0.8,
          random_share: float = 0.1, bound: float | None = None, z_loss: float = 0.0, label_smoothing: float = 0.0,
          chunk: int | str = "auto") -> MaskedLM:
  """Masked language modelling.

  Args:
    ratio: share of the tokens of text that is to be predicted; a curriculum's knob 'mask_ratio' takes its place.
    unit: what is masked as a whole: token, word (Cui et al. 2021), ngram of words with p(n) ~ 1 / n (ALBERT), span of
      words of geometric length (SpanBERT), or phrase, which the data must mark (ERNIE).
    longest: words in an n-gram (3) or span (10) at most.
    mask_share: of the tokens to be predicted, how many are written as the mask token.
    random_share: how many as a random token; the rest stay as they are.
    bound: largest share of a row that can be masked; None is `ratio`, or 1 under a curriculum of 'mask_ratio'. The
      lower it is, the less is computed; more than it is never masked.
    z_loss: weight of log(Z)^2.
    label_smoothing: mass spread evenly over the vocabulary.
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.
  """
  masking = Masking(ratio, unit, longest, mask_share, random_share, bound)
  return MaskedLM(masking, z_loss, label_smoothing, chunk)
