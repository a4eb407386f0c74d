"""Selective language modelling: only the tokens with the largest loss minus reference loss count (Rho-1, Lin et al.
2024, equation 4). All tokens are read, some are learned."""

from llm_jax.curriculum import kept_share


def build(steps: int, batch: int, length: int, *, reference: str, share: float = 0.6, start: float | None = None,
          until: float = 0.3, pacing: str | dict | list = "linear") -> kept_share.KeptShare:
  """The most learnable tokens of each batch.

  Args:
    reference: workdir or Hugging Face folder of a model with the same tokenizer, trained on high-quality text.
    share: part of the targets that is kept.
    start: part kept at step 0, if it is to shrink to `share`; None keeps `share` throughout.
    until: when `share` is reached: steps, or a fraction of the run up to 1.
    pacing: name, dict(name=..., p=...) or stages [(first step, share), ...]; see curriculum/pacing.py.

  Raises:
    ConfigError: a share out of range.
  """
  return kept_share.learnable(steps, batch, length, reference=reference, share=share, start=start, until=until,
                              pacing=pacing, unit="token")
