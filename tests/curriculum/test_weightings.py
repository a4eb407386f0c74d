"""Weightings: what they keep, what they divide by, that they carry no gradient of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.types import Losses
from llm_jax.curriculum import doremi, focal, loss_rank, odm, rho1, rho_loss, self_paced
from llm_jax.curriculum.weighing import by_domain, ranks

VALUES = jnp.array([[1.0, 2.0], [3.0, 5.0], [0.5, 0.1], [9.0, 7.0]])
WEIGHTS = jnp.array([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])


def losses(values=VALUES, weights=WEIGHTS, **about):
  return Losses(values, weights, {}, 0.0, about or None)


def mean(loss):
  return float(loss.total / loss.weight)


def build(module, **knobs):
  return module.build(100, 4, 2, **knobs)


def test_hard_self_paced_keeps_examples_below_the_threshold():
  curriculum = build(self_paced, start=2.0, end=4.0, form="hard", floor=0.0)
  assert mean(curriculum.weighting(losses(), {"self_paced_threshold": 2.0})) == pytest.approx((1 + 2 + 0.5 + 0.1) / 4)
  assert mean(curriculum.weighting(losses(), {"self_paced_threshold": 100.0})) == pytest.approx(
      float((VALUES * WEIGHTS).sum() / WEIGHTS.sum()))


def test_linear_self_paced_weighs_by_the_room_below_the_threshold():
  curriculum = build(self_paced, start=2.0, end=4.0, floor=0.0)
  v = np.maximum(0, 1 - np.array([1.5, 3.0, 0.3, 8.0]) / 4.0)
  w = np.asarray(WEIGHTS) * v[:, None]
  assert mean(curriculum.weighting(losses(), {"self_paced_threshold": 4.0})) == pytest.approx(
      float((w * np.asarray(VALUES)).sum() / w.sum()), rel=1e-5)


def test_the_floor_lets_the_hard_tail_count():
  curriculum = build(self_paced, start=2.0, end=4.0, form="hard", floor=0.1)
  assert float(curriculum.weighting(losses(), {"self_paced_threshold": 0.01}).weight) == pytest.approx(0.7)


@pytest.mark.parametrize("which, kept", [("hardest", [3, 1]), ("easiest", [2, 0])])
def test_loss_rank_keeps_its_share(which, kept):
  curriculum = build(loss_rank, which=which)
  rows = np.zeros((4, 1))
  rows[kept] = 1
  w = np.asarray(WEIGHTS) * rows
  assert mean(curriculum.weighting(losses(), {"kept_share": 0.5})) == pytest.approx(
      float((w * np.asarray(VALUES)).sum() / w.sum()))


def test_tokens_without_a_target_are_never_ranked():
  place = ranks(jnp.array([5.0, 9.0, 1.0, 3.0]), jnp.array([True, False, True, True]))
  assert place[1] >= 1 and place[0] == 0
  assert sorted(place[jnp.array([0, 2, 3])].tolist()) == pytest.approx([0, 1 / 3, 2 / 3])


def test_focal_is_the_published_factor():
  factor = (1 - np.exp(-np.asarray(VALUES))) ** 2
  w = np.asarray(WEIGHTS) * factor
  loss = build(focal).weighting(losses(), {"focal_gamma": 2.0})
  assert mean(loss) == pytest.approx(float((w * np.asarray(VALUES)).sum() / w.sum()), rel=1e-5)
  plain = build(focal).weighting(losses(), {"focal_gamma": 0.0})
  assert mean(plain) == pytest.approx(float((VALUES * WEIGHTS).sum() / WEIGHTS.sum()))


REFERENCE = jnp.array([[0.5, 0.5], [3.0, 5.0], [0.5, 0.1], [2.0, 7.0]])


def test_rho_loss_keeps_the_most_learnable_examples():
  loss = build(rho_loss, reference="r", share=0.25).weighting(losses(reference=REFERENCE), {"kept_share": 0.25})
  assert mean(loss) == 8.0  # row 3: excess 3.5 against 1, 0, 0


def test_rho1_keeps_the_most_learnable_tokens():
  loss = build(rho1, reference="r").weighting(losses(reference=REFERENCE), {"kept_share": 2 / 7})
  assert mean(loss) == pytest.approx((9.0 + 2.0) / 2)  # excess 7 and 1.5


def test_doremi_weighs_domains_and_measures_their_excess():
  curriculum = build(doremi, reference="r").for_domains(("a", "b"))
  domain = jnp.array([0, 0, 1, 1])
  loss = curriculum.weighting(losses(reference=REFERENCE, domain=domain), {"alpha/a": 0.8, "alpha/b": 0.2})
  a, b = (1 + 2 + 3) * 0.8, (0.5 + 0.1 + 9 + 7) * 0.2
  assert mean(loss) == pytest.approx((a + b) / (3 * 0.8 + 4 * 0.2), rel=1e-5)
  part, share = loss.metrics["excess_part/b"], loss.metrics["share/b"]
  assert float(part.total / share.total) == pytest.approx(7 / 4)


def test_parts_by_domain_add_up_over_micro_batches():
  domain = jnp.array([0, 1, 0, 1])
  whole = by_domain(losses(domain=domain), ("a", "b", "c"))
  halves = [by_domain(losses(VALUES[s], WEIGHTS[s], domain=domain[s]), ("a", "b", "c"))
            for s in (slice(0, 2), slice(2, 4))]
  added = jax.tree.map(jnp.add, *halves)
  for name in whole:
    assert float(added[name].total / added[name].weight) == pytest.approx(float(whole[name].total / whole[name].weight))
  assert float(whole["share/c"].total) == 0


@pytest.mark.parametrize("curriculum, knobs", [
    (build(self_paced, start=2.0, end=4.0), {"self_paced_threshold": 4.0}), (build(loss_rank), {"kept_share": 0.5}),
    (build(focal), {"focal_gamma": 2.0}), (build(rho1, reference="r"), {"kept_share": 0.5}),
    (build(odm).for_domains(("a", "b")), {})])
def test_factors_carry_no_gradient(curriculum, knobs):
  about = dict(reference=REFERENCE, domain=jnp.array([0, 0, 1, 1]))
  gradient = jax.grad(lambda v: curriculum.weighting(losses(v, **about), knobs).total)(VALUES)
  loss = curriculum.weighting(losses(**about), knobs)
  assert float((gradient * VALUES).sum()) == pytest.approx(float(loss.total), rel=1e-6)
  assert np.isfinite(np.asarray(gradient)).all() and (np.asarray(gradient) >= 0).all()
