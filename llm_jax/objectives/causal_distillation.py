"""Distillation of a causal language model: the teacher's distribution of every next token beside the token itself.

    loss = alpha * t^2 D_beta(teacher_t, student_t) + (1 - alpha) * cross-entropy

where p_t is the distribution at temperature t. With beta 0 it is Hinton et al. 2015 (section 2; t^2 keeps the size of
the gradient whatever the temperature), with other beta the divergence of GKD on given text (Agarwal et al. 2024). Both
networks read the same row; the logits of both are held for one chunk of it at a time.
"""

import dataclasses
from collections.abc import Callable

import jax

from llm_jax.core.errors import ConfigError
from llm_jax.core.output import Output
from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params, Vocabulary
from llm_jax.objectives.cross_entropy import in_chunks, means, of_logits, wide
from llm_jax.objectives.divergence import check, divergence
from llm_jax.objectives.text_rows import documents


@dataclasses.dataclass(frozen=True)
class CausalDistillation(Objective):
  """Nats per target token; metrics `soft_loss` (t^2 D_beta) and `hard_loss` (cross-entropy)."""

  alpha: float
  beta: float
  temperature: float
  chunk: int | str
  reference: str | None = None
  reference_knob: str = "teacher"
  teacher: Callable | None = None
  vocab: int | None = None
  fields: tuple[str, ...] = ("tokens", "targets", "weights")
  needs: tuple[str, ...] = ("causal",)

  def for_tokenizer(self, tokenizer: Vocabulary) -> "CausalDistillation":
    return dataclasses.replace(self, vocab=tokenizer.vocab_size)

  def with_reference(self, apply: Callable) -> "CausalDistillation":
    return dataclasses.replace(self, teacher=apply)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    assert self.teacher is not None
    inputs = dict(input_ids=batch["tokens"], **documents(batch))
    output = apply(params, **inputs, key=key)
    return self.losses(output, self.teacher(params, **inputs), batch["targets"], batch["weights"])

  def losses(self, output: Output, taught: Output, targets_BL: jax.Array, weights_BL: jax.Array) -> Losses:
    """The losses of a student's output, beside its teacher's."""
    assert output.unembed is not None and taught.unembed is not None and output.hidden is not None
    assert taught.hidden is not None
    scores, wanted = output.unembed, taught.unembed
    def both(hidden: jax.Array, taught: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
      logits = scores(hidden)
      soft = divergence(logits, wanted(taught), beta=self.beta, temperature=self.temperature, vocab=self.vocab)
      return soft, of_logits(logits, targets)[0]
    soft_BL, hard_BL = in_chunks(both, wide(scores), output.hidden, taught.hidden, targets_BL, chunk=self.chunk)
    soft_BL = self.temperature**2 * soft_BL
    values = self.alpha * soft_BL + (1.0 - self.alpha) * hard_BL
    told = means({"soft_loss": soft_BL, "hard_loss": hard_BL}, weights_BL)
    return Losses(values, weights_BL, told | output.metrics, output.auxiliary)


def build(*, teacher: str, alpha: float = 0.5, beta: float = 0.0, temperature: float = 2.0,
          chunk: int | str = "auto") -> CausalDistillation:
  """Distillation of a causal language model.

  Args:
    teacher: the workdir of a run or a Hugging Face folder, with the same tokenizer.
    alpha: weight of the teacher's distribution; that of the token itself is 1 - alpha.
    beta: of the divergence: 0 is KL(teacher || student), 1 is KL(student || teacher), Jensen-Shannon between.
    temperature: of both distributions.
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.
  """
  check(beta, temperature)
  if not 0.0 < alpha <= 1.0:
    raise ConfigError("config.objective.alpha", f"got {alpha:g}", accepted="a number above 0, up to 1")
  return CausalDistillation(alpha, beta, temperature, chunk, reference=teacher)
