"""Span corruption, the training of T5: find what the sentinels stand for (Raffel et al. 2020, section 3.1.4)."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params, Vocabulary
from llm_jax.objectives import noise_spans, source_and_target
from llm_jax.objectives.noise_spans import Counts
from llm_jax.objectives.source_and_target import Form, SourceTarget
from llm_jax.objectives.text_rows import real_tokens, two_keys


@dataclasses.dataclass(frozen=True)
class SpanCorruption(Objective):
  """Cross-entropy in nats per token of the target, sentinels and end included; metric `accuracy`."""

  ratio: float
  mean: float
  form: Form
  z_loss: float
  chunk: int | str
  needs: tuple[str, ...] = ()
  most_ratio: float = 0.5
  least_mean: float = 1.0
  tokenizer: Vocabulary | None = None
  fields: tuple[str, ...] = ("tokens", "weights")

  def for_tokenizer(self, tokenizer: Vocabulary) -> "SpanCorruption":
    made: SpanCorruption = noise_spans.with_tokenizer(self, tokenizer, 1)
    return made

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    corrupt_key, model_key = two_keys(key)
    assert self.tokenizer is not None
    made = self.corrupted(batch, corrupt_key, knobs)
    return source_and_target.losses(self.form, apply, params, made, self.tokenizer, model_key, z_loss=self.z_loss,
                                    chunk=self.chunk)

  def corrupted(self, batch: Batch, key: Key | None, knobs: Knobs) -> SourceTarget:
    """The rows with spans left out; knobs 'mask_ratio' and 'span_length' take the place of `ratio` and `mean`."""
    tokenizer, length, size_B = self.tokenizer, batch["tokens"].shape[1], real_tokens(batch).sum(1)
    assert tokenizer is not None
    if "mask_ratio" in knobs or "span_length" in knobs:
      most = Counts.of(length, self.most_ratio if "mask_ratio" in knobs else self.ratio,
                       self.least_mean if "span_length" in knobs else self.mean)
      noise_B, spans_B = noise_spans.moving(size_B, knobs.get("mask_ratio", self.ratio),
                                            knobs.get("span_length", self.mean), most)
      widths = length + 1, int(most.noise.max() + most.spans.max()) + 1
    else:
      most = Counts.of(length, self.ratio, self.mean)
      noise_B, spans_B, widths = jnp.asarray(most.noise)[size_B], jnp.asarray(most.spans)[size_B], most.widths
    return noise_spans.leave_out(tokenizer, batch, key, noise_B, spans_B, widths, int(most.spans.max()))


def build(*, ratio: float = 0.15, mean: float = 3.0, most_ratio: float = 0.5, least_mean: float = 1.0,
          form: Form = "encoder_decoder", z_loss: float = 0.0, chunk: int | str = "auto") -> SpanCorruption:
  """Span corruption. config.train.length is that of the text: the source is shorter, by the share that is left out.

  Args:
    ratio: share of the tokens that is left out; a curriculum's knob 'mask_ratio' takes its place.
    mean: mean length of the spans; a curriculum's knob 'span_length' takes its place.
    most_ratio: largest share that such a curriculum reaches; more is never left out.
    least_mean: smallest mean length that it reaches: what the number of sentinels must suffice for.
    form: encoder_decoder; or prefix, source and target in one row, the source read from both sides; or causal.
    z_loss: weight of log(Z)^2.
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.
  """
  check_knobs(ratio, mean, "config.objective")
  check_knobs(most_ratio, least_mean, "config.objective")
  return SpanCorruption(ratio, mean, form, z_loss, chunk, (form,), most_ratio, least_mean)


def check_knobs(ratio: float, mean: float, key: str) -> None:
  """Raises ConfigError for a ratio or a mean length that cannot be."""
  if not 0 < ratio < 1:
    raise ConfigError(f"{key}.ratio", f"got {ratio:g}", accepted="between 0 and 1")
  if mean < 1:
    raise ConfigError(f"{key}.mean", f"got {mean:g}", accepted="a number from 1")
