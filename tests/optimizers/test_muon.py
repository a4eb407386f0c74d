"""Muon orthogonalises each layer's matrix by itself and equals the published algorithm on plain matrices."""

import functools

import jax
import numpy as np
import optax
import pytest
from optax import contrib

from llm_jax.core.errors import ConfigError
from llm_jax.optimizers import chain

AXES = {
    "blocks.key.kernel": ("layers", "embed", "kv_heads", "head"),
    "blocks.out.kernel": ("layers", "heads", "head", "embed"),
    "blocks.experts.kernel": ("layers", "experts", "embed", "mlp"),
    "blocks.key.bias": ("layers", "kv_heads", "head"),
    "blocks.norm.scale": ("layers", "norm"),
    "embedding.embedding": ("vocab", "table_embed"),
    "head.kernel": ("embed", "vocab"),
}
SIZES = dict(layers=2, embed=16, heads=2, kv_heads=2, head=4, mlp=24, experts=2, norm=16, vocab=20, table_embed=16)
MATRICES = {"blocks.key.kernel": (16, 8), "blocks.out.kernel": (8, 16), "blocks.experts.kernel": (16, 24)}


def arrays(seed):
  rng = np.random.default_rng(seed)
  return {n: np.float32(rng.normal(size=[SIZES[a] for a in axes])) for n, axes in AXES.items()}


@functools.cache
def compiled(**knobs):
  spec = dict(name="muon", peak=1.0, decay="constant", clip=None, weight_decay=0.0) | knobs
  transform = chain.build(spec, arrays(0), 10, axes=AXES).transform
  return transform.init, jax.jit(transform.update)


def updates_after(steps, **knobs):
  init, update = compiled(**knobs)
  params = arrays(0)
  state = init(params)
  for g in steps:
    updates, state = update(g, state, params)
  return updates


def test_every_layers_update_is_nearly_orthogonal():
  updates = updates_after([arrays(1)], consistent_rms=None)
  for name, (rows, columns) in MATRICES.items():
    for matrix in np.asarray(updates[name]).reshape(-1, rows, columns):
      values = np.linalg.svd(matrix, compute_uv=False) / np.sqrt(max(1, columns / rows))
      assert values.min() > 0.5 and values.max() < 1.3, (name, values)


def test_equals_optax_on_each_plain_matrix():
  steps = [arrays(1), arrays(2), arrays(3)]
  ours = updates_after(steps)
  reference = contrib.muon(1.0, consistent_rms=0.2)
  update = jax.jit(reference.update)  # its decay is 0, so the parameters handed over do not matter
  for name, (rows, columns) in MATRICES.items():
    plain = [np.asarray(g[name]).reshape(-1, rows, columns) for g in steps]
    for layer in range(len(plain[0])):
      state = reference.init(plain[0][layer])
      for g in plain:
        want, state = update(g[layer], state, g[layer])
      np.testing.assert_allclose(np.asarray(ours[name]).reshape(-1, rows, columns)[layer], want, atol=2e-4)


def test_consistent_rms_holds_for_every_shape():
  updates = updates_after([arrays(1)])
  for name in MATRICES:
    assert 0.15 < np.sqrt(np.mean(np.square(updates[name]))) < 0.25


def test_tables_heads_biases_and_scales_are_adams():
  grads, params = [arrays(1), arrays(2)], arrays(0)
  muon = updates_after(grads, adam_peak=0.25, ns_steps=1)
  adam = optax.adam(0.25, b1=0.9, b2=0.95)
  state, update = adam.init(params), jax.jit(adam.update)
  for g in grads:
    want, state = update(g, state)
  for name in AXES.keys() - MATRICES.keys():
    np.testing.assert_allclose(muon[name], want[name], rtol=2e-5, atol=1e-6)
  named = updates_after(grads, adam_names="key", adam_peak=0.25, ns_steps=1)
  np.testing.assert_allclose(named["blocks.key.kernel"], want["blocks.key.kernel"], rtol=2e-5, atol=1e-6)


def test_the_decay_of_each_part_is_in_units_of_its_own_rate():
  zeros = jax.tree.map(np.zeros_like, arrays(0))
  updates = updates_after([zeros], weight_decay=0.5, adam_peak=0.1, ns_steps=1)
  np.testing.assert_allclose(updates["blocks.out.kernel"], -0.5 * arrays(0)["blocks.out.kernel"], rtol=1e-5)
  np.testing.assert_allclose(updates["embedding.embedding"], -0.05 * arrays(0)["embedding.embedding"], rtol=1e-5)
  np.testing.assert_array_equal(updates["blocks.norm.scale"], 0.0)


def test_no_second_moment_is_kept_for_matrices():
  optimizer = chain.build(dict(name="muon", peak=1.0), arrays(0), 10, axes=AXES)
  nu = optax.tree.get(optimizer.transform.init(arrays(0)), "nu")
  assert {n for n, x in nu.items() if x.size == 1} == set(MATRICES)
  assert any("3 tensors" in note for note in optimizer.notes)


def test_a_model_without_matrices_or_with_unknown_axes_is_refused():
  with pytest.raises(ConfigError, match="no hidden matrix"):
    chain.build(dict(name="muon", peak=1.0), {"norm.scale": np.ones(3)}, 10)
  with pytest.raises(ConfigError, match="rows from columns"):
    chain.build(dict(name="muon", peak=1.0), arrays(0), 10)
