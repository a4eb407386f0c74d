"""Maps between products: as a TPU computes them, results and gradients are those of the plain map, kept from being
computed again by a barrier."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llm_jax.layers import doors
from llm_jax.layers.feed_forward import FeedForward


def test_what_is_written_is_what_the_plain_map_gives(monkeypatch):
  block = FeedForward(nnx.Rngs(0), 8, 16, act="silu", gated=True, bias=False)
  x = jax.random.normal(jax.random.key(1), (2, 3, 8))
  def loss(block, x):
    return jnp.sin(block(x)).sum()
  wanted = jax.grad(loss, (0, 1))(block, x)
  monkeypatch.setattr(doors, "platform", lambda: "tpu")
  found = jax.grad(loss, (0, 1))(block, x)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), found, wanted)
  program = str(jax.make_jaxpr(jax.grad(loss))(block, x))
  assert program.count("optimization_barrier") >= 2  # the result, and its two gradients together
