"""Causal language modelling: predict each next token (Radford et al. 2018, equation 1)."""

import dataclasses
from collections.abc import Callable

from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params
from llm_jax.objectives.cross_entropy import means, token_cross_entropy


@dataclasses.dataclass(frozen=True)
class CausalLM(Objective):
  """Cross-entropy in nats per target token, in chunks that never hold (B, L, V)."""

  z_loss: float
  label_smoothing: float
  chunk: int | str
  fields: tuple[str, ...] = ("tokens", "targets", "weights")
  needs: tuple[str, ...] = ("causal",)
  codes_text: bool = True
  carries: bool = True

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    output = apply(params, input_ids=batch["tokens"], position_ids=batch.get("positions"),
                   segment_ids=batch.get("segment_ids"), key=key,
                   **({"cache": batch["carry"]} if "carry" in batch else {}))
    values, extras = token_cross_entropy(output.hidden, output.unembed, batch["targets"], z_loss=self.z_loss,
                                         label_smoothing=self.label_smoothing, chunk=self.chunk)
    weights = batch["weights"]
    return Losses(values, weights, means(extras, weights) | output.metrics, output.auxiliary,
                  carry=output.cache if "carry" in batch else None)


def build(*, z_loss: float = 0.0, label_smoothing: float = 0.0, chunk: int | str = "auto") -> CausalLM:
  """The causal language modelling objective.

  Args:
    z_loss: weight of log(Z)^2 (Chowdhery et al. 2022), keeps logits near normalised.
    label_smoothing: mass spread evenly over the vocabulary (Szegedy et al. 2016).
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.
  """
  return CausalLM(z_loss, label_smoothing, chunk)
