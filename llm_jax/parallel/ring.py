"""Passing parts of a sequence round the devices that share it, and sharing a causal triangle evenly among them.

All functions run inside a per-device function (parallel/shard.py), where `axis` is the name of the mesh axis that the
length is cut over. In the causal triangle the device with the last part of the sequence would work n times as long as
the one with the first. So the sequence is cut into 2 n chunks and device i takes chunks i and 2 n - 1 - i ('zigzag').
"""

from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.parallel import rules


def axis_of_length(length: int) -> tuple[str, int]:
  """The mesh axis that cuts a sequence of this length, and into how many parts; ('', 1) where nothing is cut."""
  active = rules.active()
  if active is None:
    return "", 1
  entry = active.spec(("length",), (length,))[0]
  return ("", 1) if entry is None else (str(entry), active.mesh.shape[entry])


def position(axis: str) -> jax.Array:
  """This device's number along the axis."""
  return jax.lax.axis_index(axis)


def shift(tree: Any, axis: str, ways: int) -> Any:
  """Everybody's arrays to the next device, the last one's to the first."""
  ring = [(i, (i + 1) % ways) for i in range(ways)]
  return jax.tree.map(lambda x: jax.lax.ppermute(x, axis, ring), tree)


def to_zigzag(x: jax.Array, axis: str, ways: int) -> jax.Array:
  """This device's (B, 2 c, ...) of a sequence in order -> chunks i and 2 n - 1 - i of it, (2, B, c, ...)."""
  halves = jnp.split(x, 2, axis=1)
  even, odd = (jax.lax.ppermute(half, axis, _moves(ways, parity)) for parity, half in enumerate(halves))
  here = position(axis) % 2 == 0  # the low chunk of device i is chunk i
  return jnp.stack([jnp.where(here, even, odd), jnp.where(here, odd, even)])


def from_zigzag(x: jax.Array, axis: str, ways: int) -> jax.Array:
  """The inverse of `to_zigzag`: (2, B, c, ...) -> (B, 2 c, ...)."""
  here = position(axis) % 2 == 0
  chunks = jnp.where(here, x[0], x[1]), jnp.where(here, x[1], x[0])
  back = [[(b, a) for a, b in _moves(ways, parity)] for parity in (0, 1)]
  return jnp.concatenate([jax.lax.ppermute(c, axis, moves) for c, moves in zip(chunks, back)], axis=1)


def _moves(ways: int, parity: int) -> list[tuple[int, int]]:
  """(from, to) for the even or the odd chunks: device i starts with chunks 2 i and 2 i + 1."""
  home = lambda chunk: chunk if chunk < ways else 2 * ways - 1 - chunk
  return [(i, home(2 * i + parity)) for i in range(ways)]
