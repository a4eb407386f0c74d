"""LSTM and GRU layers over rows of tokens: one large product for all inputs, then a scan over time.

The projections of the inputs do not depend on the state, so they are one product over the whole row; the scan is left
with the product of the state. Gates lie and are named as in PyTorch, with a bias on either side, so that weights carry
over. The state is an argument and a result, float32, rows first: {'h': (B, N, H)} and for the LSTM {'c': (B, N, H)},
where N counts layers times directions.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.layers.dropout import dropout, split
from llm_jax.layers.linear import Init, Linear, linear, normal

Cell = Literal["lstm", "gru"]
State = dict[str, jax.Array]


def lstm(x_BG: jax.Array, h_BG: jax.Array, state: State) -> State:
  """Gates i, f, g, o in that order (Hochreiter and Schmidhuber 1997; Gers et al. 2000); both sides (B, 4H)."""
  i, f, g, o = jnp.split(x_BG + h_BG, 4, axis=-1)
  c = jax.nn.sigmoid(f) * state["c"] + jax.nn.sigmoid(i) * jnp.tanh(g)
  return {"h": jax.nn.sigmoid(o) * jnp.tanh(c), "c": c}


def gru(x_BG: jax.Array, h_BG: jax.Array, state: State) -> State:
  """Gates r, z, n in that order (Cho et al. 2014), the reset inside: n = tanh(x_n + r * h_n); both sides (B, 3H)."""
  (x_r, x_z, x_n), (h_r, h_z, h_n) = jnp.split(x_BG, 3, axis=-1), jnp.split(h_BG, 3, axis=-1)
  r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
  return {"h": (1.0 - z) * jnp.tanh(x_n + r * h_n) + z * state["h"]}


CELLS: dict[str, tuple[Callable[..., State], int, tuple[str, ...]]] = {  # step, number of gates, arrays of the state
    "lstm": (lstm, 4, ("h", "c")), "gru": (gru, 3, ("h",)),
}


class RecurrentLayer(nnx.Module):
  """One layer in one direction: (B, L, I) -> (B, L, H)."""

  def __init__(self, rngs: nnx.Rngs, inputs: int, hidden: int, *, cell: Cell, init: Init | None = None):
    self.cell = cell
    gates = CELLS[cell][1]
    self.input = Linear(rngs, {"embed": inputs}, {"mlp": gates * hidden}, init=init)
    self.hidden = Linear(rngs, {"embed": hidden}, {"mlp": gates * hidden}, init=init)

  def __call__(self, x_BLI: jax.Array, state: State, *, valid_BL: jax.Array | None = None,
               start_BL: jax.Array | None = None, mask_BH: jax.Array | None = None,
               reverse: bool = False) -> tuple[jax.Array, State]:
    """-> (outputs, state after the last token).

    state: (B, H) arrays. valid_BL: tokens that are not padding; others leave the state as it was. start_BL: tokens
    before which the state is forgotten. mask_BH: multiplies the state that the gates see (variational dropout).
    """
    step = CELLS[self.cell][0]
    kernel, bias = self.hidden.kernel[...], None if self.hidden.bias is None else self.hidden.bias[...]
    flag = lambda a_BL: None if a_BL is None else a_BL.T[..., None] > 0
    projected_LBG = jnp.moveaxis(self.input(x_BLI), 1, 0)

    def body(state: State, xs: tuple) -> tuple[State, jax.Array]:
      x_BG, valid, start = xs
      if start is not None:
        state = {name: jnp.where(start, 0.0, a) for name, a in state.items()}
      seen = state["h"] if mask_BH is None else state["h"] * mask_BH
      h_BG = linear(seen.astype(x_BLI.dtype), kernel, bias)
      after = step(x_BG.astype(jnp.float32), h_BG.astype(jnp.float32), state)
      if valid is not None:
        after = {name: jnp.where(valid, a, state[name]) for name, a in after.items()}
      return after, after["h"].astype(x_BLI.dtype)
    state, out_LBH = jax.lax.scan(body, state, (projected_LBG, flag(valid_BL), flag(start_BL)), reverse=reverse)
    return jnp.moveaxis(out_LBH, 0, 1), state


class RecurrentStack(nnx.Module):
  """Layers on top of each other, in one direction or both (outputs side by side).

  Args of the constructor:
    inputs, hidden, depth: widths and layers. cell: lstm or gru. bidirectional: a second direction in every layer.
    dropout: rate on the inputs of every layer (Zaremba et al. 2014). variational: one mask for all tokens of a row,
      also on the state with rate `state_dropout` (Gal and Ghahramani 2016).
  """

  def __init__(self, rngs: nnx.Rngs, inputs: int, hidden: int, depth: int, *, cell: Cell = "lstm",
               bidirectional: bool = False, dropout: float = 0.0, variational: bool = False,
               state_dropout: float = 0.0, init: Init | None = None):
    self.cell, self.hidden, self.depth, self.directions = cell, hidden, depth, 2 if bidirectional else 1
    self.dropout, self.variational, self.state_dropout = dropout, variational, state_dropout
    widths = [inputs] + [hidden * self.directions] * (depth - 1)
    self.layers = nnx.List([RecurrentLayer(rngs, width, hidden, cell=cell, init=init or normal(0.1))
                            for width in widths for _ in range(self.directions)])

  def start(self, batch: int) -> State:
    """The state before the first token: zeros."""
    shape = (batch, self.depth * self.directions, self.hidden)
    return {name: jnp.zeros(shape) for name in CELLS[self.cell][2]}

  def __call__(self, x_BLI: jax.Array, state: State | None = None, *, valid_BL: jax.Array | None = None,
               start_BL: jax.Array | None = None, key: jax.Array | None = None) -> tuple[jax.Array, State]:
    """-> (outputs of the last layer (B, L, directions * H), state after the call); arguments: `RecurrentLayer`."""
    state = self.start(x_BLI.shape[0]) if state is None else state
    # Backwards a document starts after its last token.
    back_BL = None if start_BL is None else jnp.pad(start_BL[:, 1:], ((0, 0), (0, 1)))
    after = []
    keys = split(key, self.depth)
    for depth in range(self.depth):
      input_key, *state_keys = split(keys[depth], 1 + self.directions)
      x_BLI = self.drop(x_BLI, input_key)
      outs = []
      for direction in range(self.directions):
        n = depth * self.directions + direction
        mask = None if not self.state_dropout or key is None else dropout(
            jnp.ones((x_BLI.shape[0], self.hidden)), self.state_dropout, state_keys[direction])
        out, last = self.layers[n](x_BLI, {name: a[:, n] for name, a in state.items()}, valid_BL=valid_BL,
                                   start_BL=back_BL if direction else start_BL, mask_BH=mask, reverse=direction == 1)
        outs.append(out)
        after.append(last)
      x_BLI = outs[0] if self.directions == 1 else jnp.concatenate(outs, axis=-1)
    return x_BLI, {name: jnp.stack([a[name] for a in after], axis=1) for name in state}

  def drop(self, x_BLI: jax.Array, key: jax.Array | None) -> jax.Array:
    """Dropout between layers and before the head: a mask for each token, or one for the row."""
    if not self.variational or key is None:
      return dropout(x_BLI, self.dropout, key)
    return x_BLI * dropout(jnp.ones((x_BLI.shape[0], 1, x_BLI.shape[2]), x_BLI.dtype), self.dropout, key)


def uniform(limit: float) -> Any:
  """The initializer U(-limit, limit), one that looks at no shape."""
  def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -limit, limit)
  init.elementwise = True  # type: ignore[attr-defined]
  return init


def document_starts(position_ids: jax.Array | None, segment_ids: jax.Array | None) -> jax.Array | None:
  """(B, L) True where a document starts within the row; None if neither is given. The first token of a row starts one
  only when its position says so: before it lies what the state remembers."""
  if segment_ids is None:
    return None if position_ids is None else position_ids == 0
  return jnp.pad(segment_ids[:, 1:] != segment_ids[:, :-1], ((0, 0), (1, 0)))
