"""Objectives over preferences: closed forms where policy and reference agree, gradients that go the right way, nothing
from padding or rows without weight, micro-batches that add up to the whole or are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from preference_fixture import apply, batch, beside, params

from llm_jax.core.errors import ConfigError
from llm_jax.models import gpt
from llm_jax.objectives import cpo, dpo, kto, orpo, reward
from llm_jax.objectives.dpo_losses import LOSSES, SCORED
from llm_jax.objectives.preference_pairs import Pair, logprobs

SMOOTHING = {"exo_pair": 0.1, "robust": 0.1}
OBJECTIVES = {
    **{f"dpo_{loss}": dpo.build(loss=loss, label_smoothing=SMOOTHING.get(loss, 0.0)) for loss in LOSSES},
    **{f"dpo_{kind}": dpo.build(divergence=kind) for kind in ("forward_kl", "js_divergence", "alpha_divergence")},
    "dpo_supervised": dpo.build(supervised=0.5), "orpo": orpo.build(),
    **{f"cpo_{loss}": cpo.build(loss=loss) for loss in cpo.LOSSES},
    "kto": kto.build(), "apo_zero_unpaired": kto.build(loss="apo_zero_unpaired")}
AT_START = {  # the loss where policy and reference agree, beta = 0.1
    "sigmoid": np.log(2), "robust": np.log(2), "hinge": 1.0, "ipo": 25.0, "ipo_summed": 25.0, "sigmoid_norm": np.log(2),
    "exo_pair": -np.log(2) - 0.5 * np.log(0.9 * 0.1), "nca_pair": 2 * np.log(2), "bco_pair": 2 * np.log(2),
    "sppo_hard": 50.0, "apo_zero": 1.0, "apo_down": 1.0}


def losses_of(objective, weights, rows, reference=None):
  theirs = beside(params(1) if reference is None else reference)
  return objective.with_reference(theirs)(apply, weights, rows, None, {})


def total(objective, weights, rows):
  losses = losses_of(objective, weights, rows)
  return (losses.values * losses.weights).sum()


@pytest.mark.parametrize("loss", LOSSES)
def test_where_policy_and_reference_agree_the_loss_is_known_and_no_pair_is_told_apart(loss):
  weights = params()
  losses = losses_of(OBJECTIVES[f"dpo_{loss}"], weights, batch(), weights)
  np.testing.assert_allclose(losses.values, AT_START[loss], rtol=1e-4)
  assert abs(float(losses.metrics["rewards_margins"].total)) < 1e-5
  if loss in SCORED:
    for kind in ("forward_kl", "js_divergence", "alpha_divergence"):
      other = dpo.build(loss=loss, divergence=kind, label_smoothing=SMOOTHING.get(loss, 0.0))
      np.testing.assert_allclose(losses_of(other, weights, batch(), weights).values, AT_START[loss], rtol=1e-4)


@pytest.mark.parametrize("name", ["dpo_sigmoid", "dpo_ipo", "dpo_exo_pair", "dpo_js_divergence", "dpo_apo_zero"])
def test_a_step_down_the_gradient_raises_the_chosen_and_lowers_the_rejected(name):
  objective, weights, rows = OBJECTIVES[name], params(), batch()
  gradient = jax.grad(lambda p: total(objective, p, rows))(weights)
  norm = jnp.sqrt(sum(jnp.square(g).sum() for g in gradient.values()))
  moved = {n: w - 0.02 * gradient[n] / norm for n, w in weights.items()}
  before, after = (logprobs(apply, p, rows, None, "auto")[0] for p in (weights, moved))
  assert after.chosen.sum() > before.chosen.sum() and after.rejected.sum() < before.rejected.sum()


def test_without_a_reference_too_the_chosen_is_pulled_up_and_the_rejected_down():
  means = Pair(jnp.array([-2.0, -0.3]), jnp.array([-1.0, -0.4]))
  for loss in (lambda x: orpo.odds_losses(x, 0.1), *(cpo.build(loss=kind).compare for kind in cpo.LOSSES)):
    slope = jax.grad(lambda x, loss=loss: loss(x).sum())(means)
    assert (slope.chosen < 0).all() and (slope.rejected > 0).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_padding_and_rows_without_weight_change_nothing(name):
  objective, weights, rows = OBJECTIVES[name], params(), batch()
  values = losses_of(objective, weights, rows).values
  assert values.shape == (4,) and np.isfinite(values).all()
  longer = {k: jnp.pad(a, ((0, 0), (0, 3))) if a.ndim == 2 else a for k, a in rows.items()}
  np.testing.assert_allclose(losses_of(objective, weights, longer).values, values, rtol=1e-4, atol=1e-5)
  fewer = {**rows, "weights": rows["weights"].at[3].set(0.0)}
  other = {**fewer, **{k: a.at[3].set(a[0]) for k, a in rows.items() if k != "weights"}}
  gradients = [jax.grad(lambda p, r=r: total(objective, p, r))(weights) for r in (fewer, other)]
  for n in weights:
    np.testing.assert_allclose(gradients[0][n], gradients[1][n], rtol=1e-4, atol=1e-5, err_msg=n)


@pytest.mark.parametrize("name", [n for n, o in OBJECTIVES.items() if not o.whole_batch])
def test_micro_batches_add_up_to_the_whole(name):
  objective, weights, rows = OBJECTIVES[name], params(), batch()
  part = lambda which: {k: a[which] for k, a in rows.items()}
  halves = sum(total(objective, weights, part(slice(i, i + 2))) for i in (0, 2))
  np.testing.assert_allclose(halves, total(objective, weights, rows), rtol=1e-4)


def test_the_reference_point_of_kto_is_of_the_whole_batch_and_not_differentiated():
  objective, weights, rows = kto.build(), params(), batch()
  assert objective.whole_batch and not kto.build(loss="apo_zero_unpaired").whole_batch
  point = losses_of(objective, weights, rows).metrics["kl"]
  mismatched = {f"{side}{end}": rows[f"mismatched{end}"] for side in ("chosen", "rejected") for end in ("", "_parts")}
  ours, theirs = (logprobs(apply, p, mismatched, None, "auto")[0].chosen for p in (weights, params(1)))
  np.testing.assert_allclose(point.total / point.weight, max(float((ours - theirs).mean()), 0.0), rtol=1e-4)
  assert (jax.grad(lambda x: kto.reference_point(x, jnp.zeros(4), jnp.ones(4)))(jnp.ones(4)) == 0).all()
  positive = kto.reference_point(jnp.array([2.0, 4.0]), jnp.zeros(2), jnp.array([1.0, 0.0]))
  assert positive == 2.0 and kto.reference_point(-jnp.ones(2), jnp.zeros(2), jnp.ones(2)) == 0.0


def test_the_log_odds_are_exact_at_both_ends():
  logp = np.array([-1e-6, -1e-3, -0.5, -0.7, -5.0, -80.0])
  want = logp - np.log(-np.expm1(logp))
  found, slope = orpo.log_odds(jnp.asarray(logp, jnp.float32)), jax.vmap(jax.grad(orpo.log_odds))(jnp.asarray(logp))
  np.testing.assert_allclose(found, want, rtol=1e-4)
  np.testing.assert_allclose(slope, -1.0 / np.expm1(logp), rtol=1e-3)
  assert np.isfinite(orpo.log_odds(jnp.zeros(1))).all() and np.isfinite(jax.grad(orpo.log_odds)(0.0))


def test_a_reward_is_read_at_the_last_token_whatever_padding_follows():
  model = gpt.build(40, 16, variant="debug", width=16, heads=2, depth=1, head="sequence", labels=1)
  weights, rows = model.init(jax.random.key(0)), batch()
  objective = reward.build(margin=True, centring=0.01)
  call = jax.jit(lambda rows: objective(model.apply, weights, rows, None, {}))
  losses = call(rows)
  longer = {k: jnp.pad(a, ((0, 0), (0, 3)), constant_values=0 if k.endswith("parts") else 7) if a.ndim == 2 else a
            for k, a in rows.items()}
  np.testing.assert_allclose(call(longer).values, losses.values, atol=1e-5)
  size = int((rows["chosen_parts"][0] > 0).sum())
  alone = jax.jit(lambda ids: model.apply(weights, input_ids=ids).scores[0, 0])(rows["chosen"][:1, :size])
  one = {k: a[:1] for k, a in rows.items()}
  chosen = call(one).metrics["rewards_chosen"]
  np.testing.assert_allclose(chosen.total, alone, atol=1e-5)
  two = gpt.build(40, 16, variant="debug", width=16, heads=2, depth=1, head="sequence", labels=2)
  with pytest.raises(ConfigError, match=r"config\.model\.labels: 2 scores"):
    jax.eval_shape(lambda w: objective(two.apply, w, rows, None, {}), two.shapes)


@pytest.mark.parametrize("wrong, key", [
    (lambda: dpo.build(beta=0.0), "beta"), (lambda: dpo.build(loss="exo_pair"), "label_smoothing"),
    (lambda: dpo.build(loss="hinge", label_smoothing=0.1), "label_smoothing"),
    (lambda: dpo.build(loss="apo_zero", divergence="forward_kl"), "divergence"),
    (lambda: cpo.build(loss="ipo", label_smoothing=0.1), "label_smoothing"), (lambda: orpo.build(beta=-1.0), "beta"),
    (lambda: kto.build(desirable=0.0), "desirable"), (lambda: reward.build(centring=-1.0), "centring")])
def test_knobs_that_cannot_be_are_refused(wrong, key):
  with pytest.raises(ConfigError, match=rf"config\.objective\.{key}"):
    wrong()
