"""What each expert does to its tokens, when the router has chosen: dropless by grouped products, or with a capacity.

`compute` is the door: tokens, choices and weights in, the weighted sum of the chosen experts out. Another way to bring
tokens and experts together (an exchange between devices) is another function with these arguments.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llm_jax.layers.grouped import grouped
from llm_jax.layers.recompute import in_float32
from llm_jax.parallel import exchange, gathered, tasks
from llm_jax.parallel.rules import constrain
from llm_jax.parallel.shard import per_shard


class Kernels(NamedTuple):
  """Gated feed-forward blocks of all experts: gate and up (E, D, F), down (E, F, D), float32."""

  gate: jax.Array
  up: jax.Array
  down: jax.Array


Act = Callable[[jax.Array], jax.Array]


def compute(x_BLD: jax.Array, choice_BLK: jax.Array, weight_BLK: jax.Array, kernels: Kernels, act: Act, *,
            slots: int | None = None, valid_BL: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
  """-> (sum over k of weight * expert[choice](x), (B, L, D); whether each choice was served, (B, L, K)).

  Args:
    x_BLD: tokens. choice_BLK: integer expert of each; weight_BLK: its share in the sum, float32.
    slots: tokens of a row that an expert takes at most; None serves all.
    valid_BL: tokens that may take a slot, None for all.
  """
  if slots is None:
    return dropless(x_BLD, choice_BLK, weight_BLK, kernels, act), jnp.ones(choice_BLK.shape, bool)
  return limited(x_BLD, choice_BLK, weight_BLK, kernels, act, slots, valid_BL)


def dropless(x_BLD: jax.Array, choice_BLK: jax.Array, weight_BLK: jax.Array, kernels: Kernels, act: Act) -> jax.Array:
  """Every choice is served: tokens sorted by expert, one grouped product over all experts (Gale et al. 2022).

  Each device sorts its own rows and multiplies them with its part of every expert's hidden width; what `fsdp` splits it
  gathers first (parallel/gathered.py). Where the mesh gives each device some of the experts, rows go to those that they
  chose and the results come back (Lepikhin et al. 2021). Under a map over tasks, which JAX cannot split together with
  the derivatives of a per-device function, the compiler splits the products of all rows.
  """
  whole = tasks.per_task()
  axis, ways = ("", 1) if whole else exchange.axis_of("experts")
  wide, narrow = ("experts", "embed", "mlp"), ("experts", "mlp", "embed")
  axes, places = zip(*(gathered.given(names, kernel) for names, kernel in zip((wide, wide, narrow), kernels)))
  def local(x: jax.Array, choice: jax.Array, weight: jax.Array, *parts: jax.Array) -> jax.Array:
    experts, per_token = choice.reshape(-1), choice.shape[-1]
    order = jnp.argsort(experts, stable=True)
    rows = x.reshape(-1, x.shape[-1])[order // per_token]
    if ways == 1:
      y = _of_experts(rows, experts[order], Kernels(*parts), places, act)
    else:
      came, own, back = exchange.to_owners(rows, experts[order], parts[0].shape[0], axis, ways)
      by_expert = jnp.argsort(own, stable=True)
      y = back(_of_experts(came[by_expert], own[by_expert], Kernels(*parts), places, act)[jnp.argsort(by_expert)])
    y = y[jnp.argsort(order)].reshape(*choice.shape, x.shape[-1])
    return (y * weight[..., None].astype(y.dtype)).sum(-2)

  if whole:
    return local(x_BLD, choice_BLK, weight_BLK, *kernels)
  tokens = ("batch", "length", None)
  run = per_shard(local, (tokens, tokens, tokens, *axes), tokens, summed="mlp")
  return run(x_BLD, choice_BLK, weight_BLK, *kernels)


def _of_experts(rows_TD: jax.Array, expert_T: jax.Array, kernels: Kernels, places: Sequence[int | None],
                act: Act) -> jax.Array:
  """Rows in the order of their experts -> (T, D); zeros for those at the end whose expert is none of these.

  places: of each kernel the dimension of which this device has a part.
  """
  sizes = jnp.bincount(expert_T, length=kernels.gate.shape[0]).astype(jnp.int32)
  product = lambda rows, i: grouped(rows, kernels[i], sizes, places[i])
  return product(in_float32(act, product(rows_TD, 0)) * product(rows_TD, 1), 2)


def limited(x_BLD: jax.Array, choice_BLK: jax.Array, weight_BLK: jax.Array, kernels: Kernels, act: Act, slots: int,
            valid_BL: jax.Array | None) -> tuple[jax.Array, jax.Array]:
  """An expert takes the first `slots` of the choices that a row makes of it; the others add nothing (Lepikhin et al.
  2021). Slots go by position in the row, not by rank of the choice, so that no later token takes one from an earlier.
  """
  B, L, D = x_BLD.shape
  K, E = choice_BLK.shape[-1], kernels.gate.shape[0]
  asks_BSE = jax.nn.one_hot(choice_BLK.reshape(B, L * K), E, dtype=jnp.int32)
  if valid_BL is not None:
    asks_BSE = asks_BSE * jnp.repeat(valid_BL.astype(jnp.int32), K, axis=1)[..., None]
  before_BS = ((jnp.cumsum(asks_BSE, axis=1) - asks_BSE) * asks_BSE).sum(-1)
  served_BS = (asks_BSE.sum(-1) > 0) & (before_BS < slots)
  slot_BS = jnp.where(served_BS, choice_BLK.reshape(B, L * K) * slots + before_BS, E * slots)
  tokens_S = jnp.arange(L * K) // K
  fill = lambda slot_S: jnp.full((E * slots,), L).at[slot_S].set(tokens_S, mode="drop")
  take = lambda a, index: a.at[index].get(mode="fill", fill_value=0)
  rows = jax.vmap(take)(x_BLD, jax.vmap(fill)(slot_BS)).reshape(B, E, slots, D)
  rows_BECD = constrain(rows, "expert_batch", "experts", None, None)
  up = lambda kernel: jnp.einsum("becd,edf->becf", rows_BECD, kernel.astype(x_BLD.dtype))
  hidden_BECF = in_float32(act, up(kernels.gate)) * up(kernels.up)
  y_BECD = jnp.einsum("becf,efd->becd", hidden_BECF, kernels.down.astype(x_BLD.dtype))
  y_BLKD = jax.vmap(take)(y_BECD.reshape(B, E * slots, D), slot_BS).reshape(B, L, K, D)
  return (y_BLKD * weight_BLK[..., None].astype(x_BLD.dtype)).sum(-2), served_BS.reshape(B, L, K)
