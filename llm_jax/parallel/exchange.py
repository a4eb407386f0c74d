"""Bringing rows to the devices that own what they need, and the results back: tokens to their experts.

All functions run inside a per-device function (parallel/shard.py). How many rows go where is known only when they go,
and shapes are fixed, so a device holds room for all rows of all its peers: nothing is ever dropped.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm_jax.parallel import rules


def axis_of(logical: str) -> tuple[str, int]:
  """The mesh axis that splits a logical axis, and into how many parts; ('', 1) where it is whole."""
  active = rules.active()
  found = {} if active is None else active.over(logical)
  if not found:
    return "", 1
  (axis, ways), = found.items()
  return axis, ways


def to_owners(rows_SD: jax.Array, item_S: jax.Array, each: int, axis: str,
              ways: int) -> tuple[jax.Array, jax.Array, Callable[[jax.Array], jax.Array]]:
  """Sends each row to the device that owns its item; device i owns items i * each ... (i + 1) * each - 1.

  Args:
    rows_SD: this device's rows, in the order of their items. item_S: their items, ascending.

  Returns:
    Rows (W * S, D) that have come; the item of each among this device's own, `each` where there is none; a function
    that sends results (W * S, ...) back -> (S, ...), in the order of `rows_SD`.
  """
  S, owner_S = item_S.shape[0], item_S // each
  counts = jnp.bincount(owner_S, length=ways)
  place_S = jnp.arange(S) - (jnp.cumsum(counts) - counts)[owner_S]
  room = jnp.zeros((ways, S, rows_SD.shape[1]), rows_SD.dtype).at[owner_S, place_S].set(rows_SD)
  items = jnp.full((ways, S), each, item_S.dtype).at[owner_S, place_S].set(item_S % each)
  swap = lambda x: jax.lax.all_to_all(x, axis, 0, 0)
  def back(results: jax.Array) -> jax.Array:
    return swap(results.reshape(ways, S, *results.shape[1:]))[owner_S, place_S]
  return swap(room).reshape(ways * S, -1), swap(items).reshape(-1), back
