"""Laws of a mixture of experts: the sum it stands for, what a capacity drops, order, padding, devices, losses."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.model import Model
from llm_jax.layers.experts import Experts, Routing
from llm_jax.parallel import mesh, rules

B, L, D, F, E, K = 4, 12, 8, 16, 4, 2


def made(**settings):
  model = Model.from_module(lambda rngs: Experts(rngs, D, F, experts=E, per_token=K, **settings))
  draw = np.random.default_rng(0)
  return model, {n: draw.normal(size=s.shape).astype(np.float32) / 2 for n, s in model.shapes.items()}


def run(model, params, x, *valid, key=None):
  return jax.jit(lambda *given: model.apply(*given, key=key))(params, x, *valid)


def tokens():
  return jnp.asarray(np.random.default_rng(1).normal(size=(B, L, D)), jnp.float32)


@functools.partial(jax.jit, static_argnames="normalise")
def oracle(params, x_BLD, normalise=True):
  """Every expert computed for every token, and the sum by the router's best."""
  probability = jax.nn.softmax(x_BLD @ params["router.kernel"])
  hidden = jax.nn.silu(jnp.einsum("bld,edf->blef", x_BLD, params["gate.kernel"]))
  hidden = hidden * jnp.einsum("bld,edf->blef", x_BLD, params["up.kernel"])
  each_BLED = jnp.einsum("blef,efd->bled", hidden, params["down.kernel"])
  least = jnp.sort(probability, -1)[..., -K, None]
  share = jnp.where(probability >= least, probability, 0.0)
  return each_BLED, share / share.sum(-1, keepdims=True) if normalise else share


@pytest.mark.parametrize("settings", [dict(), dict(normalise=False), dict(capacity=float(E))], ids=str)
def test_dropless_equals_all_experts_computed_for_all_tokens_with_gradients(settings):
  model, params = made(**settings)
  def wanted(params, x):
    each, share = oracle(params, x, settings.get("normalise", True))
    return jnp.square((each * share[..., None]).sum(-2)).sum()
  got = lambda params, x: jnp.square(model.apply(params, x)[0]).sum()
  x = tokens()
  for a, b in zip(jax.tree.leaves(jax.jit(jax.value_and_grad(got, (0, 1)))(params, x)),
                  jax.tree.leaves(jax.jit(jax.value_and_grad(wanted, (0, 1)))(params, x)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


def test_a_capacity_serves_the_first_choices_of_each_row_and_drops_the_rest():
  model, params = made(capacity=0.5)
  slots, x = 3, tokens()  # ceil(0.5 * 12 * 2 / 4)
  each, share = map(np.asarray, oracle(params, x))
  want, dropped = np.zeros((B, L, D)), 0
  for b in range(B):
    taken = np.zeros(E, int)
    for i in range(L):
      for e in np.flatnonzero(share[b, i]):
        served = taken[e] < slots
        taken[e] += 1
        dropped += not served
        want[b, i] += served * share[b, i, e] * each[b, i, e]
  y, sums, _ = run(model, params, x)
  assert 0 < dropped == float(sums.dropped)
  np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("capacity", [None, 0.5])
def test_no_later_token_and_no_other_row_changes_a_token(capacity):
  model, params = made(capacity=capacity)
  changed = tokens().at[0, 7:].set(3.0).at[1:].set(-1.0)
  np.testing.assert_allclose(run(model, params, tokens())[0][0, :7], run(model, params, changed)[0][0, :7], atol=1e-5)


def test_permuting_tokens_permutes_outputs():
  model, params = made()
  order = np.random.default_rng(2).permutation(B * L)
  shuffled = tokens().reshape(B * L, D)[order].reshape(B, L, D)
  np.testing.assert_allclose(run(model, params, shuffled)[0].reshape(B * L, D),
                             run(model, params, tokens())[0].reshape(B * L, D)[order], atol=1e-5)


@pytest.mark.parametrize("capacity", [None, 0.5])
def test_padding_counts_nowhere_and_takes_no_slot(capacity):
  model, params = made(capacity=None if capacity is None else capacity * L / (L + 5))  # the same number of slots
  want, sums, _ = run(made(capacity=capacity)[0], params, tokens())
  padded = jnp.pad(tokens(), ((0, 0), (5, 0), (0, 0)), constant_values=2.0)
  valid = (jnp.arange(L + 5) >= 5)[None].repeat(B, 0)
  got, padded_sums, _ = run(model, params, padded, valid)
  np.testing.assert_allclose(got[:, 5:], want, atol=1e-5)
  for a, b in zip(padded_sums, sums, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_losses_at_known_points():
  even = Routing(jnp.full(E, K * 5.0), jnp.full(E, 5.0), *jnp.asarray([9.0 * 20, 20.0, 0, 1, 1]))
  np.testing.assert_allclose([even.balance_loss(), even.z_loss()], [K, 9.0], rtol=1e-6)
  one = even._replace(assigned=jnp.eye(E)[0] * 20, probability=jnp.eye(E)[0] * 20)
  np.testing.assert_allclose(one.balance_loss(), E, rtol=1e-6)
  both = even.add(one)
  np.testing.assert_allclose(both.tokens, 40.0)


@pytest.mark.parametrize("axes", [dict(data=2, fsdp=2, tensor=2), dict(expert=4), dict(expert=2, data=2, tensor=2)],
                         ids=str)
@pytest.mark.parametrize("capacity", [None, 0.5])
def test_one_device_equals_eight(capacity, axes):
  model, params = made(capacity=capacity)
  grid = rules.ShardingRules(mesh.make(axes, jax.devices()[:math.prod(axes.values())]))
  def loss(params, x):
    y, sums, _ = model.apply(params, x)
    return jnp.square(y).sum() + sums.balance_loss() + sums.z_loss()
  want = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, tokens())
  with rules.use(grid):
    placed = jax.device_put(params, grid.for_params(model.logical_axes, model.shapes))
    x = jax.device_put(tokens(), grid.sharding(("batch", "length", "width")))
    got = jax.jit(jax.value_and_grad(loss, (0, 1)))(placed, x)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


def test_jitter_moves_only_training():
  model, params = made(jitter=0.3)
  plain = run(made()[0], params, tokens())[0]
  np.testing.assert_array_equal(run(model, params, tokens())[0], plain)
  assert float(jnp.abs(run(model, params, tokens(), key=jax.random.key(1))[0] - plain).max()) > 1e-3


def test_parameters_are_stacked_by_expert_with_their_axes():
  model = Model.from_module(lambda rngs: Experts(rngs, D, F, experts=E, per_token=K))
  assert model.shapes["gate.kernel"].shape == (E, D, F)
  assert model.logical_axes["gate.kernel"] == ("experts", "embed", "mlp")
  assert model.logical_axes["down.kernel"] == ("experts", "mlp", "embed")


def test_nothing_is_dropped_when_all_choose_one_device():
  """Every token goes to the same two experts, which one of four devices owns."""
  model, params = made()
  x = jnp.abs(tokens())
  params["router.kernel"] = np.zeros((D, E), np.float32) + np.float32([1, 2, 0, 0])
  call = lambda x: model.apply(params, x)[0]
  want = jax.jit(call)(x)
  with rules.use(rules.ShardingRules(mesh.make(dict(expert=2, data=2), jax.devices()[:4]))):
    np.testing.assert_allclose(jax.jit(lambda x: call(x))(x), want, rtol=1e-4, atol=1e-5)
