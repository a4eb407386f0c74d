"""Learnability selection: of each batch only the examples with the largest loss minus reference loss count (RHO-LOSS,
Mindermann et al. 2022, equation 3): what can be learned and has not been, neither noise nor what is known already.

The published form draws a large batch and trains on the chosen part; here the rest has weight 0. The gradient is the
same; the backward pass of the rest is not saved.
"""

from llm_jax.curriculum import kept_share


def build(steps: int, batch: int, length: int, *, reference: str, share: float = 0.1, start: float | None = None,
          until: float = 0.3, pacing: str | dict | list = "linear") -> kept_share.KeptShare:
  """The most learnable examples of each batch.

  Args:
    reference: workdir or Hugging Face folder of a model with the same tokenizer, trained on held-out or clean data.
    share: part of the batch that is kept; the paper's is 0.1.
    start: part kept at step 0, if it is to shrink to `share`; None keeps `share` throughout.
    until: when `share` is reached: steps, or a fraction of the run up to 1.
    pacing: name, dict(name=..., p=...) or stages [(first step, share), ...]; see curriculum/pacing.py.

  Raises:
    ConfigError: a share out of range.
  """
  return kept_share.learnable(steps, batch, length, reference=reference, share=share, start=start, until=until,
                              pacing=pacing, unit="example")
