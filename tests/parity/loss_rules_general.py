"""Which of our functions computes the recorded losses of general kind: distillation, cross-entropy, experts, pairs."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.output import Output
from llm_jax.core.types import Losses
from llm_jax.layers import experts
from llm_jax.objectives import causal_distillation, distillation, simcse, unlikelihood
from llm_jax.objectives.cross_entropy import token_cross_entropy
from llm_jax.objectives.divergence import divergence

Inputs, Settings, Outputs = Mapping[str, jax.Array], Mapping[str, Any], dict[str, jax.Array]
CHUNK = 6  # of 21 tokens, so that several chunks are run


def mean(losses: Losses) -> jax.Array:
  """As the train step divides them."""
  return (losses.values * losses.weights).sum() / losses.weights.sum()


def outputs(inputs: Inputs) -> tuple[Output, Output]:
  """Student's and teacher's logits as outputs whose unembedding changes nothing."""
  return Output(inputs["student_logits"], lambda x: x), Output(inputs["teacher_logits"], lambda x: x)


def labelled(inputs: Inputs) -> jax.Array:
  """(B, L) float32: 1 where there is a label."""
  return (inputs["labels"] != -100).astype(jnp.float32)


def gkd(inputs: Inputs, settings: Settings) -> Outputs:
  values = divergence(inputs["student_logits"], inputs["teacher_logits"], beta=settings["beta"],
                      temperature=settings["temperature"])
  return {"loss": mean(Losses(values, labelled(inputs), {}))}


def hinton(inputs: Inputs, settings: Settings) -> Outputs:
  objective = causal_distillation.build(teacher="", alpha=settings["alpha"], temperature=settings["temperature"],
                                        chunk=CHUNK)
  found = objective.losses(*outputs(inputs), inputs["labels"], labelled(inputs))
  return {"loss": mean(found), **{ours: found.metrics[name].total / found.metrics[name].weight
                                  for ours, name in (("kd", "soft_loss"), ("ce", "hard_loss"))}}


def distilbert(inputs: Inputs, settings: Settings) -> Outputs:
  student, teacher = outputs(inputs)
  on, labels, objective = labelled(inputs), inputs["labels"], distillation.build(teacher="", chunk=CHUNK)
  masked = Losses(token_cross_entropy(student.hidden, student.unembed, labels, chunk=CHUNK)[0], on, {})
  hidden = Output(inputs["student_hidden"]), Output(inputs["teacher_hidden"])
  soft = distillation.soft_losses(student, teacher, student.hidden.shape[-1], objective.temperature, CHUNK)
  found = objective.combined(masked, Losses(soft, on, {}), Losses(distillation.direction_losses(*hidden), on, {}))
  return {"loss": mean(found), **{ours: found.metrics[name].total / found.metrics[name].weight for ours, name in
                                  (("kd", "soft_loss"), ("mlm", "masked_lm_loss"), ("cosine", "cosine_loss"))}}


def cross_entropy(inputs: Inputs, settings: Settings) -> Outputs:
  values, _ = token_cross_entropy(inputs["student_logits"], lambda x: x, inputs["labels"], chunk=CHUNK,
                                  label_smoothing=settings["eps"])
  return {"loss": mean(Losses(values, labelled(inputs), {}))}


def shifted(inputs: Inputs, settings: Settings) -> Outputs:
  """Scores of a place are of the label behind it."""
  cut = {"student_logits": inputs["student_logits"][:, :-1], "labels": inputs["labels"][:, 1:]}
  return cross_entropy(cut, settings)


def z_loss(inputs: Inputs, settings: Settings) -> Outputs:
  values, extras = token_cross_entropy(inputs["student_logits"], lambda x: x, inputs["labels"], chunk=CHUNK,
                                       z_loss=settings["coef"])
  of = lambda values: mean(Losses(values, labelled(inputs), {}))
  return {"loss": of(values), "ce": of(extras["nll"]), "z": of(extras["z_loss"]) / settings["coef"]}


def routing(inputs: Inputs, per_token: int, valid: jax.Array | None = None) -> experts.Routing:
  """The sums of all recorded layers."""
  total = experts.Routing.zero(inputs["router_0"].shape[-1])
  for i in range(sum(name.startswith("router_") for name in inputs)):
    logits_BLE = inputs[f"router_{i}"].reshape(3, 7, -1)
    probability, _, choice = experts.choices(logits_BLE, per_token)
    total = total.add(experts.sums(logits_BLE, probability, choice, jnp.ones(choice.shape), valid))
  return total


def balance(inputs: Inputs, settings: Settings) -> Outputs:
  return {"loss": routing(inputs, settings["top_k"]).balance_loss()}


def balance_masked(inputs: Inputs, settings: Settings) -> Outputs:
  return {"loss": routing(inputs, settings["top_k"], inputs["mask"]).balance_loss()}


def router_z(inputs: Inputs, settings: Settings) -> Outputs:
  return {"loss": routing(inputs, 2).z_loss()}


def against_repetition(inputs: Inputs, settings: Settings) -> Outputs:
  """The labels before a place are its context."""
  labels_BL = inputs["labels"]
  context_BL = jnp.pad(labels_BL[:, :-1], ((0, 0), (1, 0)), constant_values=unlikelihood.NOTHING)
  context_BL = jnp.where(context_BL == -100, unlikelihood.NOTHING, context_BL)
  output = Output(inputs["student_logits"], lambda x: x)
  extras = unlikelihood.token_unlikelihood(output, labels_BL, context_BL, chunk=CHUNK)
  return {"loss": mean(Losses(extras["nll"] + extras["unlikelihood"], labelled(inputs), {}))}


def contrast(inputs: Inputs, settings: Settings) -> Outputs:
  rows = jnp.ones(len(inputs["anchor"]), bool)
  return {"loss": mean(simcse.info_nce(inputs["anchor"], inputs["positive"], rows,
                                       temperature=settings["temperature"]))}


RULES = {r"gkd_.*": gkd, "distillation_hinton": hinton, "distillation_distilbert": distilbert,
         r"cross_entropy_smoothing.*": cross_entropy, "label_smoother_shifted": shifted, "z_loss": z_loss,
         "router_load_balancing": balance, "router_load_balancing_masked": balance_masked, "router_z_loss": router_z,
         "unlikelihood": against_repetition, "info_nce": contrast}
