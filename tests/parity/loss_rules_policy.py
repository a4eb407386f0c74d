"""Recorded losses of reinforcement learning: which function computes which case."""

from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.objectives import advantages, policy_loss
from llm_jax.objectives.policy_loss import Bounds

Arrays = dict[str, jax.Array]


def mean(values: jax.Array, weights: jax.Array) -> jax.Array:
  """As the train step weighs them."""
  return (values * weights).sum() / weights.sum()


def group(scale: advantages.Scale) -> Any:
  def rule(x: Arrays, s: Any) -> Arrays:
    return {"advantages": advantages.group_relative(x["rewards"].reshape(-1, s["group_size"]), scale).reshape(-1)}
  return rule


def policy(kind: policy_loss.Kind) -> Any:
  def rule(x: Arrays, s: Any) -> Arrays:
    bounds = Bounds(s["epsilon_low"], s["epsilon_high"], s["delta"], tuple(s["sapo_temperature"] or (1.0, 1.05)))
    penalty = s["beta"] * policy_loss.k3(x["logps"], x["ref_logps"])
    found = policy_loss.surrogate(x["logps"], x["old_logps"], x["advantages"], x["mask"], kind=kind, level=s["level"],
                                  bounds=bounds, longest=s["max_completion_length"], penalty_NT=penalty)
    return {"loss": mean(found.values, found.weights)}
  return rule


def rloo(x: Arrays, s: Any) -> Arrays:
  """The recorded old log-probabilities are summed already: spread over the tokens they sum to the same."""
  mask = x["mask"].astype(jnp.float32)
  old = mask * (x["old_logps"] / mask.sum(1))[:, None]
  found = policy_loss.surrogate(x["logps"], old, x["advantages"], mask, kind="grpo", level="product",
                                bounds=Bounds(s["epsilon"], s["epsilon"]))
  return {"loss": mean(found.values, found.weights)}


def gae(x: Arrays, s: Any) -> Arrays:
  found = advantages.generalized(x["rewards"], x["values"], x["dones"], x["last_value"], gamma=s["gamma"], lam=s["lam"])
  return {"advantages": found, "returns": found + x["values"]}


def ppo(x: Arrays, s: Any) -> Arrays:
  mask, clip = x["mask"].astype(jnp.float32), s["clip"]
  found = policy_loss.surrogate(x["logps"], x["old_logps"], x["advantages"], mask, kind="bnpo",
                                bounds=Bounds(clip, clip))
  value = mean(policy_loss.value_losses(x["values"], x["old_values"], x["returns"], s["value_clip"]), mask)
  outside = (jnp.abs(found.ratio - 1.0) > clip).astype(jnp.float32)
  loss = mean(found.values, found.weights)
  return {"loss": loss + s["vf_coef"] * value, "policy_loss": loss, "value_loss": value,
          "clip_fraction": mean(outside, mask), "approx_kl": mean(policy_loss.k3(x["old_logps"], x["logps"]), mask)}


def estimators(x: Arrays, s: Any) -> Arrays:
  return {name: getattr(policy_loss, name)(x["logps"], x["ref_logps"]) for name in ("k1", "k2", "k3")}


RULES = {
    **{f"grpo_advantages_{scale}": group(scale) for scale in ("group", "batch", "none")},
    **{f"policy_{kind}(_sequence)?(_kl)?(_two_sided)?": policy(kind) for kind in policy_loss.FORMS},
    "rloo": rloo,
    "rloo_advantages": lambda x, s: {"advantages": advantages.leave_one_out(x["rewards"].reshape(-1, 4)).reshape(-1)},
    "gae": gae,
    "ppo": ppo,
    "masked_whiten": lambda x, s: {"whitened": advantages.whiten(x["advantages"], x["mask"])},
    "kl_estimators": estimators,
}
