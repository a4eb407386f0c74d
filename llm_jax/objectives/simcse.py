"""Sentence embeddings by contrast (SimCSE without labels, Gao et al. 2021, section 3): a row is read twice under
different dropout, and each of its two embeddings must find the other among the rows of the batch.

    loss_i = -log( exp(cos(a_i, b_i) / t) / sum over rows j of exp(cos(a_i, b_j) / t) )        (InfoNCE)

A row's embedding is pooled from the last hidden states. The other rows of the whole batch of a step are the negatives:
those of all devices, never of a micro-batch, so that runs with train.accumulate are refused. An evaluation has no
dropout: it reads every row once, and tells how well the rows of one evaluation batch are apart.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Key, Knobs, Losses, Mean, Objective, Params
from llm_jax.objectives.knob_ranges import check_positive
from llm_jax.objectives.text_rows import documents, real_tokens

Pooling = Literal["mean", "first", "last"]


@dataclasses.dataclass(frozen=True)
class SimCSE(Objective):
  """Nats per row; metrics `accuracy`, the share of rows whose own second reading is the nearest, and the mean cosines
  `positive_cosine` and `negative_cosine`."""

  form: str
  pooling: Pooling
  temperature: float
  fields: tuple[str, ...] = ("tokens", "weights")
  whole_batch: bool = True

  @property
  def needs(self) -> tuple[str, ...]:  # type: ignore[override]
    return (self.form,)

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    readings, real_BL = 1 if key is None else 2, real_tokens(batch)
    inputs = dict(input_ids=batch["tokens"], **documents(batch))
    each = {n: None if a is None else jnp.repeat(a, readings, axis=0) for n, a in inputs.items()}
    output = apply(params, **each, key=key)  # the readings of a row stand together: it stays on its device
    pooled = pool(output.hidden, jnp.repeat(real_BL, readings, axis=0), self.pooling)
    pooled_BRD = pooled.reshape(-1, readings, pooled.shape[-1])
    found = info_nce(pooled_BRD[:, 0], pooled_BRD[:, -1], real_BL.any(1), temperature=self.temperature)
    return found._replace(metrics=found.metrics | output.metrics, auxiliary=output.auxiliary)


def pool(hidden_BLD: jax.Array, real_BL: jax.Array, pooling: Pooling) -> jax.Array:
  """(B, D) float32 of a row's real tokens: their mean, the first, or the last."""
  hidden_BLD = hidden_BLD.astype(jnp.float32)
  if pooling == "mean":
    return jnp.where(real_BL[..., None], hidden_BLD, 0.0).sum(1) / jnp.maximum(real_BL.sum(1), 1)[:, None]
  place_B = real_BL.argmax(1) if pooling == "first" else real_BL.shape[1] - 1 - real_BL[:, ::-1].argmax(1)
  return jnp.take_along_axis(hidden_BLD, place_B[:, None, None], axis=1)[:, 0]


def info_nce(anchor_BD: jax.Array, positive_BD: jax.Array, real_B: jax.Array, *, temperature: float) -> Losses:
  """The loss of each row whose positive is that of the same number; rows that are not real count nowhere."""
  unit = lambda x: x / jnp.maximum(jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-16), 1e-8)
  cosine_BB = unit(anchor_BD) @ unit(positive_BD).T
  logits_BB = jnp.where(real_B[None], cosine_BB / temperature, -1e9)
  same_BB = jnp.eye(logits_BB.shape[0], dtype=bool)
  values_B = jax.nn.logsumexp(logits_BB, axis=-1) - jnp.where(same_BB, logits_BB, 0.0).sum(-1)
  weights_B, others_BB = real_B.astype(jnp.float32), real_B[:, None] & real_B[None] & ~same_BB
  mean = lambda x, w: Mean(jax.lax.stop_gradient((x * w).sum()), w.sum().astype(jnp.float32))
  return Losses(values_B, weights_B, {
      "accuracy": mean(logits_BB.argmax(-1) == jnp.arange(logits_BB.shape[0]), weights_B),
      "positive_cosine": mean(jnp.where(same_BB, cosine_BB, 0.0).sum(-1), weights_B),
      "negative_cosine": mean(cosine_BB, others_BB)})


def build(*, form: Literal["masked", "causal"] = "masked", pooling: Pooling = "mean",
          temperature: float = 0.05) -> SimCSE:
  """Contrastive embeddings of rows; the model needs dropout, which is all that tells two readings of a row apart.

  Args:
    form: masked: a model that reads from both sides; causal: one whose tokens see those before them.
    pooling: a row's embedding: the mean over its tokens, its first token (a bidirectional model's [CLS]), or its last.
    temperature: by which cosines are divided.
  """
  check_positive("temperature", temperature)
  if form == "causal" and pooling == "first":
    raise ConfigError("config.objective.pooling", "'first', which sees nothing but itself in a causal model",
                      accepted="'mean' or 'last'")
  return SimCSE(form, pooling, temperature)
