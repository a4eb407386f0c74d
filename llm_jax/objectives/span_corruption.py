"""Span corruption, the training of T5: find what the sentinels stand for (Raffel et al. 2020, section 3.1.4)."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params, Vocabulary
from llm_jax.objectives import noise_spans, source_and_target
from llm_jax.objectives.noise_spans import Counts
from llm_jax.objectives.source_and_target import Form
from llm_jax.objectives.text_rows import real_tokens, two_keys


@dataclasses.dataclass(frozen=True)
class SpanCorruption(Objective):
  """Cross-entropy in nats per token of the target, sentinels and end included; metric `accuracy`."""

  ratio: float
  mean: float
  form: Form
  z_loss: float
  chunk: int | str
  tokenizer: Vocabulary | None = None
  fields: tuple[str, ...] = ("tokens", "weights")

  @property
  def needs(self) -> tuple[str, ...]:  # type: ignore[override]
    return (self.form,)

  def for_tokenizer(self, tokenizer: Vocabulary) -> "SpanCorruption":
    source_and_target.check(tokenizer)
    noise_spans.check_sentinels(tokenizer, 1)
    return dataclasses.replace(self, tokenizer=tokenizer)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    corrupt_key, model_key = two_keys(key)
    assert self.tokenizer is not None
    counts = Counts.of(batch["tokens"].shape[1], self.ratio, self.mean)
    size_B = real_tokens(batch).sum(1)
    made = noise_spans.leave_out(self.tokenizer, batch, corrupt_key, jnp.asarray(counts.noise)[size_B],
                                 jnp.asarray(counts.spans)[size_B], counts.widths, int(counts.spans.max()))
    return source_and_target.losses(self.form, apply, params, made, self.tokenizer, model_key, z_loss=self.z_loss,
                                    chunk=self.chunk)


def build(*, ratio: float = 0.15, mean: float = 3.0, form: Form = "encoder_decoder", z_loss: float = 0.0,
          chunk: int | str = "auto") -> SpanCorruption:
  """Span corruption. config.train.length is that of the text: the source is shorter, by the share that is left out.

  Args:
    ratio: share of the tokens that is left out.
    mean: mean length of the spans.
    form: encoder_decoder; or prefix, source and target in one row, the source read from both sides; or causal.
    z_loss: weight of log(Z)^2.
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.
  """
  check_knobs(ratio, mean, "config.objective")
  return SpanCorruption(ratio, mean, form, z_loss, chunk)


def check_knobs(ratio: float, mean: float, key: str) -> None:
  """Raises ConfigError for a ratio or a mean length that cannot be."""
  if not 0 < ratio < 1:
    raise ConfigError(f"{key}.ratio", f"got {ratio:g}", accepted="between 0 and 1")
  if mean < 1:
    raise ConfigError(f"{key}.mean", f"got {mean:g}", accepted="a number from 1")
