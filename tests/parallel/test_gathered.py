"""Weights gathered by the program: directions of a machine are found, each part of a gradient lands at its owner."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from llm_jax.core.derivatives import plain_layers
from llm_jax.layers.linear import linear
from llm_jax.parallel import gathered, mesh, rules


@dataclasses.dataclass(frozen=True)
class Chip:
  coords: tuple[int, ...]


def chips(order):
  """A mesh over a box of 4 x 2 x 2 chips; order: its axes from slowest to fastest, and where each is turned round."""
  shape = (4, 2, 2)
  grid = np.empty(shape, object)
  for at in np.ndindex(shape):
    grid[at] = Chip(at)
  return Mesh(grid.transpose(order).reshape(1, 16), ("data", "fsdp"))


@pytest.mark.parametrize("order, sizes", [((0, 1, 2), (4, 2, 2)), ((1, 2, 0), (2, 2, 4)), ((2, 0, 1), (2, 4, 2))])
def test_directions_of_a_box(order, sizes):
  assert gathered.links(chips(order), "fsdp") == sizes


def test_devices_out_of_order_and_devices_without_a_place_are_one_row():
  grid = chips((0, 1, 2)).devices.ravel()
  assert gathered.links(Mesh(np.roll(grid, 1).reshape(1, 16), ("data", "fsdp")), "fsdp") == (16,)
  assert gathered.links(mesh.make(dict(data=1, fsdp=8)), "fsdp") == (8,)
  plane = Mesh(grid.reshape(4, 4), ("data", "fsdp"))
  assert gathered.links(plane, "fsdp") == (2, 2) and gathered.links(plane, "data") == (4,)


@pytest.mark.parametrize("ways", [(8,), (4, 2), (2, 4), (2, 2, 2)])
@pytest.mark.parametrize("axes", [("embed", "heads"), ("mlp", "embed")])
def test_product_and_derivatives_are_the_plain_ones(ways, axes, monkeypatch):
  monkeypatch.setattr(gathered, "links", lambda mesh, axis: ways)
  x, kernel = jax.random.normal(jax.random.key(0), (16, 3, 8)), jax.random.normal(jax.random.key(1), (8, 16))
  wanted = jax.grad(lambda x, k: jnp.sin(x @ k).sum(), (0, 1))(x, kernel)
  def given(x, kernel):
    with rules.use(rules.ShardingRules(mesh.make(dict(data=1, fsdp=8)))):
      return jax.grad(lambda x, k: jnp.sin(linear(x, k, axes=axes)).sum(), (0, 1))(x, kernel)
  for found, plain in zip(jax.jit(given)(x, kernel), wanted):
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5)


def test_the_backward_pass_gathers_again():
  """Of a gather that is the same as the forward pass's the compiler would make one, and keep the whole weight."""
  x, kernel = jnp.ones((16, 8)), jnp.ones((8, 16))
  with rules.use(rules.ShardingRules(mesh.make(dict(data=1, fsdp=8)))):
    product = lambda x, k: jnp.sin(linear(x, k, axes=("embed", "heads"))).sum()
    text = jax.jit(jax.grad(product, (0, 1))).lower(x, kernel).as_text()
  assert text.count("stablehlo.all_gather") == 2 and text.count("stablehlo.optimization_barrier") == 1


def test_steps_aside_where_it_cannot_serve():
  x, kernel = jnp.ones((16, 8)), jnp.ones((8, 16))
  def program(x, **section):
    with rules.use(rules.ShardingRules(mesh.make(dict(data=1, fsdp=8)), **section)):
      return str(jax.make_jaxpr(lambda x: linear(x, kernel, axes=("embed", "heads")))(x))
  assert "all_gather" in program(x)
  assert "all_gather" not in program(x[:7])  # rows that the devices do not divide
  assert "all_gather" not in program(x, gather_weights="compiler")
  with plain_layers():
    assert "all_gather" not in program(x)
