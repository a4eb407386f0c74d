"""Running a stack: scanned, unrolled and rematerialised layers do the same, in order, whatever the pattern of kinds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.layers import stack

PATTERNS = [["a"] * 5, ["a", "b"] * 3, ["a", "b", "b", "a", "b"], ["a", "a", "b", "b", "b"], ["a"]]
FACTOR = {"a": 0.5, "b": 2.0}


def call(block, carry, index, kind, extra):
  return jnp.tanh(carry @ block["w"]) * FACTOR[kind] + index / 10 + (0.0 if extra is None else extra)


def weights(layers):
  """Small enough that tanh is not saturated, where its gradient would be rounding."""
  return 0.3 * jax.random.normal(jax.random.key(0), (layers, 4, 4))


def ran(kinds, **settings):
  blocks = {"w": weights(len(kinds))}
  run = lambda blocks: stack.run(blocks, jnp.ones((2, 4)), call, kinds=kinds, collect=lambda c: c, **settings)
  loss = lambda blocks: jnp.square(run(blocks)[0]).sum()
  return jax.jit(lambda blocks: (*run(blocks), jax.grad(loss)(blocks)["w"]))(blocks)


@pytest.mark.parametrize("kinds", PATTERNS, ids="".join)
@pytest.mark.parametrize("settings", [dict(), dict(remat="full"), dict(remat="dots", scan=False)], ids=str)
def test_every_way_to_run_the_layers_gives_the_loop(kinds, settings):
  extras = jnp.arange(len(kinds)) / 10
  want, kept, grads = ran(kinds, scan=False, per_layer=extras)
  assert len(kept) == len(kinds)
  x = jnp.ones((2, 4))
  for i, kind in enumerate(kinds):
    np.testing.assert_allclose(kept[i], x, rtol=1e-5)
    x = call({"w": weights(len(kinds))[i]}, x, i, kind, extras[i])
  np.testing.assert_allclose(want, x, rtol=1e-5)
  for a, b in zip(ran(kinds, per_layer=extras, **settings), (want, kept, grads), strict=True):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("names", PATTERNS, ids="".join)
@pytest.mark.parametrize("settings", [dict(), dict(remat="full"), dict(scan=False)], ids=str)
def test_each_layer_gets_its_own_of_the_parts_that_only_some_have(names, settings):
  parts = {name: {"v": jax.random.normal(jax.random.key(i), (names.count(name), 4))} for i, name in enumerate("ab")}
  both = lambda layer, x, index, kind, extra: call(layer[0], x + layer[1]["v"], index, "a", extra)
  got, _ = stack.run({"w": weights(len(names))}, jnp.ones((2, 4)), both, kinds=[0] * len(names), parts=parts,
                     part_of=names, **settings)
  x = jnp.ones((2, 4))
  for i, name in enumerate(names):
    x = call({"w": weights(len(names))[i]}, x + parts[name]["v"][names[:i].count(name)], i, "a", None)
  np.testing.assert_allclose(got, x, rtol=1e-5)


def test_the_period_is_the_shortest_that_repeats():
  assert [stack.period(kinds) for kinds in PATTERNS] == [1, 2, 3, 5, 1]


def test_an_unknown_remat_policy_is_named():
  with pytest.raises(ConfigError, match="dots"):
    stack.check_policy("dot")
