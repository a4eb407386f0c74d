"""Synthetic families: exact difficulty, baselines known in closed form, batches that depend on step and plan alone."""

import jax
import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Plan
from llm_jax.data import linear_functions, parity
from llm_jax.data.corpus import DataContext
from llm_jax.models import regression_transformer


@pytest.fixture
def linear(tmp_path):
  return linear_functions.build(DataContext(0, tmp_path), dimensions=8, eval_rows=640)


def test_baselines_are_their_closed_forms(linear):
  errors = linear_functions.baseline_errors(linear.evals["validation"].take(0, Plan(640, 17)), 8)
  for k in range(8):  # least squares knows k of the d directions
    assert errors["least squares"][k] == pytest.approx(1 - k / 8, abs=0.12)
  assert errors["least squares"][8:].max() < 1e-6
  assert errors["3 nearest neighbours"].mean() == pytest.approx(0.90, abs=0.04)


def test_knobs_switch_dimensions_and_points_off(linear):
  full = linear.train.take(5, Plan(4, 17))
  easy = linear.train.take(5, Plan(4, 17, knobs={"n_dims": 3.0, "n_points": 6.0}))
  assert (easy["inputs"][..., 3:] == 0).all() and (easy["inputs"][..., :3] == full["inputs"][..., :3]).all()
  assert (easy["weights"].sum(1) == 6).all()


def test_dimensions_that_are_not_there_are_refused(linear):
  for value in (0, 9):
    with pytest.raises(ConfigError, match=r"n_dims: got \d, and the data hold 8"):
      linear.train.take(0, Plan(4, 17, knobs={"n_dims": float(value)}))


def test_a_short_row_is_the_head_of_a_long_one(linear):
  short, long = (linear.train.take(3, Plan(4, n)) for n in (9, 17))
  assert all((short[name] == long[name][:, :9]).all() for name in short)


@pytest.mark.parametrize("family", ["linear", "parity"])
def test_hosts_take_rows_of_one_batch(linear, tmp_path, family):
  source = (linear if family == "linear" else parity.build(DataContext(0, tmp_path))).train
  whole = source.take(7, Plan(8, 17))
  parts = [source.take(7, Plan(8, 17), slice(i, i + 2)) for i in range(0, 8, 2)]
  assert all((np.concatenate([p[n] for p in parts]) == whole[n]).all() for n in whole)


def test_parity_rows_follow_the_mixture(tmp_path):
  source = parity.build(DataContext(0, tmp_path)).train
  sparse = source.take(0, Plan(512, 1, mixture={"sparse": 1.0}))
  assert (sparse["domain"] == 1).all() and (sparse["inputs"] < 0).mean() == pytest.approx(0.05, abs=0.01)
  share = np.mean([source.take(s, Plan(64, 1))["domain"].mean() for s in range(50)])
  assert share == pytest.approx(0.3, abs=0.005)
  assert (sparse["inputs"][:, :5].prod(1) == sparse["targets"][:, 0]).all()


def test_the_transformer_does_not_see_the_answer(linear):
  model = regression_transformer.build(0, 5, inputs=8, width=16, depth=2, heads=2)
  params = jax.jit(model.init)(jax.random.key(0))
  batch = linear.train.take(0, Plan(1, 5))
  scores = jax.jit(lambda y: model.apply(params, inputs=batch["inputs"], targets=y).scores[0])
  jacobian = np.asarray(jax.jacobian(scores)(batch["targets"]))[:, 0]  # (prediction, target)
  assert np.abs(np.triu(jacobian)).max() == 0 and (np.abs(jacobian[np.tril_indices(5, -1)]) > 0).all()
