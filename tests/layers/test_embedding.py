"""A table of vectors: the row of the padding is read like any other, and only a tied head trains it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llm_jax.layers.embedding import Embedding

IDS = jnp.array([[0, 3, 3, 5], [3, 1, 0, 0]])


def gradient(padding, tied):
  graph, state = nnx.split(Embedding(nnx.Rngs(0), 7, 4, padding=padding))

  def loss(state):
    table = nnx.merge(graph, state)
    x = table(IDS)
    return jnp.square(table.attend(jax.lax.stop_gradient(x)) if tied else x).sum()
  return jax.tree.leaves(jax.grad(loss)(state))[0]


@pytest.mark.parametrize("padding", [0, 3])
def test_only_the_row_of_the_padding_is_not_trained_by_being_read(padding):
  plain, got = gradient(None, tied=False), gradient(padding, tied=False)
  assert np.abs(plain[padding]).min() > 0
  np.testing.assert_array_equal(got, plain.at[padding].set(0.0))


def test_a_tied_head_trains_it():
  np.testing.assert_array_equal(gradient(3, tied=True), gradient(None, tied=True))
  assert np.abs(gradient(3, tied=True)[3]).max() > 0
