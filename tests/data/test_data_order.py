"""The order of the data: permutations are bijections, mixtures are exact in every prefix."""

import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.data import permutation
from llm_jax.data.mixture import Mixture, largest_remainder
from llm_jax.data.permutation import permute


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 17, 64, 65, 1000])
def test_permutation_is_a_bijection(size):
  assert sorted(permute(np.arange(size), size, "k")) == list(range(size))


def test_permutation_is_the_same_tabulated_and_computed(monkeypatch):
  index = np.array([5, 0, 999, 500])
  tabulated = permute(index, 1000, "k")
  monkeypatch.setattr(permutation, "TABULATED", 0)
  assert (permute(index, 1000, "k") == tabulated).all()


def test_permutation_of_a_huge_size_needs_no_memory():
  size = 10**12 + 39
  images = permute(np.arange(1000), size, "k")
  assert len(set(images.tolist())) == 1000
  assert images.min() >= 0 and images.max() < size
  assert 0.4 < images.mean() / size < 0.6


def test_keys_give_different_orders_that_look_random():
  a, b = permute(np.arange(4096), 4096, "a"), permute(np.arange(4096), 4096, "b")
  assert (a == b).mean() < 0.01
  assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 0.05
  assert abs(np.corrcoef(a, np.arange(4096))[0, 1]) < 0.05


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (0.1, 0.9), (1, 2, 3, 4), (0.05, 0.15, 0.3, 0.5), (1, 0, 2), (5,)])
def test_every_prefix_is_within_one_example_of_its_share(weights):
  names = [str(i) for i in range(len(weights))]
  mixture = Mixture.of(dict(zip(names, weights)), names)
  domain, index = mixture.locate(np.arange(5000))
  share = np.array(weights) / sum(weights)
  active = sum(w > 0 for w in weights)
  bound = 1 - 1 / (2 * active - 2) if active > 1 else 0  # Tijdeman's
  for d in range(len(weights)):
    mine = domain == d
    assert np.abs(np.cumsum(mine) - share[d] * np.arange(1, 5001)).max() <= bound + 1e-9
    assert (index[mine] == np.arange(mine.sum())).all()  # each domain is read in order, without a gap


def test_mixture_is_random_access():
  mixture = Mixture.of({"a": 0.3, "b": 0.7}, ["a", "b"])
  whole = mixture.locate(np.arange(1000))
  part = mixture.locate(np.arange(400, 500))
  assert (whole[0][400:500] == part[0]).all() and (whole[1][400:500] == part[1]).all()


def test_odd_weights_are_met_to_one_in_four_thousand_and_none_is_lost():
  counts = np.array(largest_remainder([np.pi, 1.0, 1e-6]))
  assert counts[2] == 1
  assert np.abs(counts / counts.sum() - np.array([np.pi, 1, 1e-6]) / (np.pi + 1 + 1e-6)).max() < 1 / 2000


@pytest.mark.parametrize("weights, names", [({"c": 1}, "c"), ({"a": -1}, "a"), ({"a": float("nan")}, "a"),
                                            ({"a": 0, "b": 0}, "positive")])
def test_bad_weights_are_named(weights, names):
  with pytest.raises(ConfigError, match=names):
    Mixture.of(weights, ["a", "b"])
