"""Denoising entity auto-encoder (Zhang et al. 2019, ERNIE with knowledge, section 3.4): which of the text's entities
does each mention mean, when some of the alignments that the model is given are wrong and some are gone?"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Key, Knobs, Losses, Mean, Objective, Params
from llm_jax.objectives.text_rows import documents, row_keys, two_keys


@dataclasses.dataclass(frozen=True)
class EntityAlignment(Objective):
  """Cross-entropy in nats per mention over the row's entities; metric `accuracy`, also of the corrupted mentions."""

  wrong: float = 0.05
  gone: float = 0.15
  fields: tuple[str, ...] = ("tokens", "entity_ids", "entity_mask", "entity_vectors", "entity_labels")
  needs: tuple[str, ...] = ("entities",)

  def __post_init__(self) -> None:
    if min(self.wrong, self.gone) < 0 or self.wrong + self.gone > 1:
      raise ConfigError("config.objective.wrong", f"{self.wrong:g} wrong and {self.gone:g} gone",
                        accepted="shares that add up to at most 1")

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    corrupt_key, model_key = two_keys(key)
    labels_BL = batch["entity_labels"]
    given_BL = self.corrupted(batch, row_keys(corrupt_key, batch["tokens"]))
    output = apply(params, input_ids=batch["tokens"], entity_vectors=batch["entity_vectors"],
                   entity_mask=batch["entity_mask"], entity_alignment=given_BL, **documents(batch), key=model_key)
    logits_BLE = output["entity_logits"].astype(jnp.float32)
    weights = (labels_BL >= 0).astype(jnp.float32)
    values = optax.softmax_cross_entropy_with_integer_labels(logits_BLE, jnp.maximum(labels_BL, 0))
    right_BL = (logits_BLE.argmax(-1) == labels_BL).astype(jnp.float32)
    share = lambda of_BL: Mean((right_BL * of_BL).sum(), of_BL.sum())
    changed_BL = weights * (given_BL != labels_BL)
    metrics = {"accuracy": share(weights), "corrupted_accuracy": share(changed_BL)}
    return Losses(values * weights, weights, jax.lax.stop_gradient(metrics), output.auxiliary)

  def corrupted(self, batch: Batch, keys_B: Key) -> jax.Array:
    """(B, L) the alignments that the model is given: `wrong` of them with another entity of the row, `gone` absent."""
    def row(key: Key, labels_L: jax.Array, mask_E: jax.Array) -> jax.Array:
      dice_key, other_key = jax.random.split(key)
      dice_L = jax.random.uniform(dice_key, labels_L.shape)
      slots = jnp.arange(mask_E.shape[0])
      free_LE = (mask_E > 0) & (slots != labels_L[:, None])
      other_L = jax.random.categorical(other_key, jnp.where(free_LE, 0.0, -jnp.inf))
      other_L = jnp.where(free_LE.any(-1), other_L, labels_L)  # a row with one entity has no other
      given_L = jnp.where(dice_L < self.wrong, other_L, jnp.where(dice_L < self.wrong + self.gone, -1, labels_L))
      return jnp.where(labels_L >= 0, given_L, -1)
    return jax.vmap(row)(keys_B, batch["entity_labels"], batch["entity_mask"])


def build(*, wrong: float = 0.05, gone: float = 0.15) -> EntityAlignment:
  """The denoising entity auto-encoder.

  Args:
    wrong: share of mentions that are given another entity of the row.
    gone: share of mentions that are given none.
  """
  return EntityAlignment(wrong, gone)
