"""Training by distillation as DistilBERT has it (Sanh et al. 2019, section 3): masked language modelling, the teacher's
soft targets at every token, and the direction of the teacher's last hidden states.

    loss = masked * masked_lm + soft * t^2 KL(teacher_t || student_t) + cosine * (1 - cos(student, teacher))

where p_t is the distribution at temperature t. Teacher and student read the same corrupted row.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.output import Output
from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params, Vocabulary
from llm_jax.objectives import masked_lm
from llm_jax.objectives.combined import Part, combine
from llm_jax.objectives.cross_entropy import in_chunks, wide
from llm_jax.objectives.divergence import divergence
from llm_jax.objectives.masking import Unit, mask
from llm_jax.objectives.text_rows import documents, real_tokens, two_keys


@dataclasses.dataclass(frozen=True)
class Distillation(Objective):
  """Metrics: `masked_lm_loss` and `_accuracy`, `soft_loss`, `cosine_loss`."""

  student: masked_lm.MaskedLM
  temperature: float
  weights: tuple[float, float, float]  # masked, soft, cosine
  reference: str | None = None
  reference_knob: str = "teacher"
  teacher: Callable | None = None
  needs: tuple[str, ...] = ("masked",)

  @property
  def fields(self) -> tuple[str, ...]:  # type: ignore[override]
    return self.student.fields

  def for_tokenizer(self, tokenizer: Vocabulary) -> "Distillation":
    return dataclasses.replace(self, student=self.student.for_tokenizer(tokenizer))

  def with_reference(self, apply: Callable) -> "Distillation":
    return dataclasses.replace(self, teacher=apply)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    mask_key, model_key = two_keys(key)
    assert self.student.tokenizer is not None and self.teacher is not None
    masked_BL, chosen_BL = mask(self.student.masking, self.student.tokenizer, batch, mask_key, knobs)
    inputs = dict(input_ids=masked_BL, **documents(batch))
    output = apply(params, **inputs, key=model_key)
    taught = self.teacher(params, **inputs)
    real_BL = real_tokens(batch).astype(jnp.float32)
    vocab = self.student.tokenizer.vocab_size
    soft = Losses(soft_losses(output, taught, vocab, self.temperature, self.student.chunk), real_BL, {})
    cosine = Losses(direction_losses(output, taught), real_BL, {}) if self.weights[2] else None
    return self.combined(self.student.losses(output, batch["tokens"], chosen_BL, knobs), soft, cosine)

  def combined(self, masked: Losses, soft: Losses, cosine: Losses | None) -> Losses:
    """The sum of the three by their weights."""
    parts = zip(("masked_lm", "soft", "cosine"), self.weights, (masked, soft, cosine))
    return combine([Part(name, weight, losses) for name, weight, losses in parts if losses is not None])


def soft_losses(student: Output, teacher: Output, vocab: int, temperature: float, chunk: int | str) -> jax.Array:
  """(B, L): t^2 KL(teacher || student) of the distributions at temperature t, in nats, over the tokenizer's ids (a
  published table may have been padded beyond them)."""
  assert student.unembed is not None and teacher.unembed is not None and student.hidden is not None
  assert teacher.hidden is not None
  scores, wanted = student.unembed, teacher.unembed
  def soft(hidden: jax.Array, taught: jax.Array) -> jax.Array:
    return temperature**2 * divergence(scores(hidden), wanted(taught), temperature=temperature, vocab=vocab)
  found: jax.Array = in_chunks(soft, wide(scores), student.hidden, teacher.hidden, chunk=chunk)
  return found


def direction_losses(student: Output, teacher: Output) -> jax.Array:
  """(B, L): one minus the cosine between the last hidden states.

  Raises:
    ConfigError: they are not of one width.
  """
  assert student.hidden is not None and teacher.hidden is not None
  widths = student.hidden.shape[-1], teacher.hidden.shape[-1]
  if widths[0] != widths[1]:
    raise ConfigError("config.objective.cosine", f"the student's width is {widths[0]}, the teacher's {widths[1]}",
                      accepted="0, or a student of the teacher's width")
  unit = lambda x: x / jnp.maximum(jnp.sqrt(jnp.square(x).sum(-1, keepdims=True)), 1e-8)
  ours, theirs = (o.hidden.astype(jnp.float32) for o in (student, teacher))  # type: ignore[union-attr]
  return 1.0 - (unit(ours) * jax.lax.stop_gradient(unit(theirs))).sum(-1)


def build(*, teacher: str, temperature: float = 2.0, masked: float = 2.0, soft: float = 5.0, cosine: float = 1.0,
          ratio: float = 0.15, unit: Unit = "token", longest: int | None = None, mask_share: float = 0.8,
          random_share: float = 0.1, bound: float | None = None, chunk: int | str = "auto") -> Distillation:
  """Distillation of a masked language model, with the weights of DistilBERT's published training.

  Args:
    teacher: the workdir of a run or a Hugging Face folder, with the same tokenizer.
    temperature: of both distributions.
    masked: weight of masked language modelling.
    soft: weight of the teacher's distribution.
    cosine: weight of the hidden states' direction; 0 for a student of another width.
    ratio: share of the tokens of text that is to be predicted; a curriculum's knob 'mask_ratio' takes its place.
    unit: what is masked as a whole: token, word, ngram, span or phrase, see masked_lm.
    longest: words in an n-gram (3) or span (10) at most.
    mask_share: of the tokens to be predicted, how many are written as the mask token.
    random_share: how many as a random token; the rest stay as they are.
    bound: largest share of a row that can be masked, see masked_lm.
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.
  """
  for name, value, low in (("temperature", temperature, 1e-6), ("masked", masked, 1e-6), ("soft", soft, 1e-6),
                           ("cosine", cosine, 0.0)):
    if value < low:
      raise ConfigError(f"config.objective.{name}", f"got {value:g}",
                        accepted="a number from 0" if low == 0 else "a number above 0")
  student = masked_lm.build(ratio=ratio, unit=unit, longest=longest, mask_share=mask_share, random_share=random_share,
                            bound=bound, chunk=chunk)
  return Distillation(student, temperature, (masked, soft, cosine), reference=teacher)
