"""A pipeline gives what the layers give in order: values and gradients, in any schedule; its bubble by count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.layers import stack
from llm_jax.parallel import mesh, pipeline, rules

N, B, D = 8, 8, 4


def arrays():
  keys = jax.random.split(jax.random.key(0), 3)
  return (jax.random.normal(keys[0], (N, D, D)) / 2, jax.random.normal(keys[1], (B, D)),
          jax.random.normal(keys[2], (B, D)))


def loss(found, kinds, weights, x, rows, key=None):
  """A stack that reads its index, its kind, rows beside the carry, that sums over rows, and perhaps random keys."""
  def call(block, carry, layer, kind, key, rows):
    x, total = carry
    y = jnp.tanh(x @ block + rows * (layer + 1) * kind)
    y = y if key is None else y * jax.random.bernoulli(key, 0.5, y.shape)
    return x + y, total + jnp.square(y).sum(0)
  with rules.use(found):
    keys = None if key is None else jax.random.split(key, N)
    (x, total), _ = stack.run(weights, (x, jnp.ones(D)), call, kinds=kinds, rows=rows, sums=(1,), per_layer=keys,
                              remat="dots")
  return jnp.square(x).sum() + (total**3).sum() / 100


def of(stage, devices=None, **section):
  devices = jax.devices()[:devices or stage]
  options = mesh.build(**{"data": -1, "stage": stage, **section})
  return rules.from_options(options, devices)


@pytest.mark.parametrize("found, kinds", [
    (of(4), [1.0] * N), (of(2, rounds=2, microbatches=4), [1.0, 0.5] * 4), (of(2, 8, rounds=4), [2.0] * N),
    (of(4, microbatches=1), [1.0] * N), (of(4, rounds=2, microbatches=8), [1.0] * N),
], ids=lambda p: f"{p.rounds} x {p.microbatches}" if isinstance(p, rules.ShardingRules) else "")
def test_a_pipeline_is_the_layers_in_order(found, kinds):
  got, want = (jax.jit(jax.value_and_grad(functools.partial(loss, f, kinds), (0, 1, 2)))(*arrays())
               for f in (found, None))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5 * float(np.abs(b).max()))


def test_each_micro_batch_draws_for_itself():
  """Dropout: rows of two micro-batches are not masked alike, though they are alike."""
  weights, x, rows = arrays()
  same = jnp.broadcast_to(x[:1], x.shape)
  run = lambda x: loss(of(2, microbatches=2), [1.0] * N, weights, x, jnp.zeros_like(rows), jax.random.key(7))
  by_row = jax.jit(jax.grad(run))(same)
  even, odd = by_row[0], by_row[1]  # rows are dealt round robin
  assert np.abs(even - odd).max() > 1e-3


def test_the_schedule_counts_its_bubble():
  gpipe, circular = pipeline.Schedule(4, 1, 8), pipeline.Schedule(4, 2, 8)
  assert (gpipe.turns, circular.turns) == (11, 19)
  assert gpipe.bubble == pytest.approx(3 / 11) and circular.bubble == pytest.approx(3 / 19)
  assert pipeline.schedule(of(4)) == pipeline.Schedule(4, 1, 4) and pipeline.schedule(None) is None


def test_stages_hold_their_layers_only():
  """Weights lie on the stages, and the compiled program holds no copy of all of them."""
  found = of(4)
  weights = jax.ShapeDtypeStruct((N, 256, 256), jnp.float32, sharding=found.sharding(("layers", None, None)))
  x = jax.ShapeDtypeStruct((B, 256), jnp.float32)
  def run(weights, x):
    with rules.use(found):
      return stack.run(weights, x, lambda w, x, *_: jnp.tanh(x @ w), kinds=[None] * N, rows=())[0].sum()
  memory = jax.jit(jax.grad(run), out_shardings=weights.sharding).lower(weights, x).compile().memory_analysis()
  whole = N * 256 * 256 * 4
  assert memory.argument_size_in_bytes <= whole / 4 + x.size * 4
  assert memory.temp_size_in_bytes < whole


@pytest.mark.parametrize("found, kinds, part", [
    (of(4, rounds=4, microbatches=4), [1.0] * N, "8 layers do not divide into 4 stages x 4 rounds"),
    (of(8), [1.0, 2.0] * 4, "repeats after 2"),
    (of(4, microbatches=3), [1.0] * N, "3 micro-batches do not divide 8 rows"),
    (of(4, rounds=2, microbatches=2), [1.0] * N, "2 micro-batches for 4 stages"),
], ids=["layers", "pattern", "rows", "rounds"])
def test_what_does_not_divide_is_refused(found, kinds, part):
  with pytest.raises(ConfigError, match=part):
    jax.eval_shape(functools.partial(loss, found, kinds), *arrays())


def test_a_stack_that_does_not_name_its_rows_is_refused():
  weights, x, _ = arrays()
  with rules.use(of(2)), pytest.raises(ConfigError, match="cannot be a pipeline"):
    stack.run(weights, x, lambda w, x, *_: x @ w, kinds=[None] * N)
