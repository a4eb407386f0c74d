"""Which of our functions computes which recorded loss of preferences: those that the objectives train with."""

import jax
import jax.numpy as jnp

from llm_jax.objectives import cpo, dpo, kto, orpo, reward
from llm_jax.objectives.preference_pairs import Pair, reward_metrics


def halves(values: jax.Array) -> Pair:
  """The recorded rows: the chosen ones, then the rejected."""
  return Pair(*jnp.split(values, 2))


def compared(objective: dpo.DPO, inputs) -> dict[str, jax.Array]:
  policy, reference = (halves(inputs[k].sum(1)) for k in ("logps", "ref_logps"))
  size = halves(inputs["completion_mask"].sum(1).astype(jnp.float32))
  values, rewards = objective.compare(policy, reference, size)
  means = {k: m.total / m.weight for k, m in reward_metrics(rewards, jnp.ones_like(values)).items()}
  return dict(loss=values.mean(), **means)


def dpo_rule(loss: str):
  def rule(inputs, settings):
    divergence = settings.get("divergence", "reverse_kl")
    return compared(dpo.build(loss=loss, beta=settings["beta"], label_smoothing=settings.get("label_smoothing", 0.0),
                              divergence=divergence, alpha=settings.get("alpha") or 0.5), inputs)
  return rule


def orpo_rule(inputs, settings):
  return dict(loss=orpo.odds_losses(Pair(inputs["chosen_logps"], inputs["rejected_logps"]), settings["beta"]).mean())


def cpo_rule(loss: str):
  def rule(inputs, settings):
    objective = cpo.build(loss=loss, beta=settings["beta"], gamma=settings["simpo_gamma"])
    return dict(loss=objective.compare(Pair(inputs["chosen_logps"], inputs["rejected_logps"])).mean())
  return rule


def kto_rule(loss: str):
  def rule(inputs, settings):
    objective = kto.build(loss=loss, beta=settings["beta"], desirable=settings["desirable_weight"],
                          undesirable=settings["undesirable_weight"])
    ratio = (inputs["logps"] - inputs["ref_logps"]).sum(1)
    point = kto.reference_point(inputs["kl_logps"], inputs["ref_kl_logps"], jnp.ones_like(ratio))
    return dict(loss=objective.compare(ratio, inputs["label"], point if loss == "kto" else jnp.zeros(())).mean())
  return rule


def reward_rule(inputs, settings):
  objective = reward.build(margin=settings["margin"], centring=settings["center_rewards_coefficient"] or 0.0)
  margin = inputs["margin"] if objective.margin else 0.0
  return dict(loss=objective.compare(Pair(inputs["chosen"], inputs["rejected"]), margin).mean())


PLAIN = ("hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down",
         "sigmoid_norm")
RULES = {
    **{f"dpo_{loss}": dpo_rule(loss) for loss in PLAIN},
    r"dpo_(sigmoid(_forward_kl|_js_divergence|_alpha_divergence)?|conservative)": dpo_rule("sigmoid"),
    "ipo_summed": dpo_rule("ipo_summed"), "orpo": orpo_rule,
    **{f"cpo_{loss}": cpo_rule(loss) for loss in ("sigmoid", "hinge", "ipo", "simpo")},
    **{loss: kto_rule(loss) for loss in ("kto", "apo_zero_unpaired")}, "reward_.*": reward_rule,
}
