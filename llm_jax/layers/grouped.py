"""Products of rows in groups, each group with a matrix of its own: sorted tokens and the weights of their experts.

`jax.lax.ragged_dot` is the product (Gale et al. 2022). A TPU has a kernel for it and for the gradient of its rows. For
the gradient of its matrices it has none: there the compiler multiplies all rows with zeros in place of other groups',
eight times the work of eight experts. JAX's Pallas kernel for that gradient takes its place. JAX cannot map
`ragged_dot` over matrices that differ from task to task, nor differentiate it twice: meta-learners get products of
blocks.
"""

import jax
import jax.numpy as jnp

from llm_jax.core.derivatives import plain
from llm_jax.layers.doors import tpu_forms
from llm_jax.parallel import gathered, tasks

LANES = 128  # of a TPU's registers: tiles are multiples of it
TILE_ROWS, TILE_INPUTS, TILE_OUTPUTS = 512, 512, 1024  # of the gradient's kernel: they fill a TPU's memory for vectors

Given = tuple[jax.Array, jax.Array]  # (rows (T, I), sizes (E,) of the groups)


def grouped(rows_TI: jax.Array, kernel_EIO: jax.Array, sizes_E: jax.Array, place: int | None = None) -> jax.Array:
  """Consecutive groups of rows, each times its own matrix -> (T, O) in the dtype of the rows; rows after the last
  group give zeros.

  place: the dimension of which `kernel_EIO` is this device's part, inside a per-device function (parallel/gathered.py).
  """
  given = (rows_TI, sizes_E)
  if place is None and (tasks.per_task() or plain()):
    return in_blocks(given, kernel_EIO)
  if place is not None:
    pullback = (lambda given, dy: kernel_gradient(given, dy, dy.dtype)) if tpu_forms() else None
    return gathered.within(multiply, given, kernel_EIO, place, rows_TI.dtype, pullback)
  return _multiply_tpu(given, kernel_EIO) if tpu_forms() else multiply(given, kernel_EIO)


def multiply(given: Given, kernel_EIO: jax.Array) -> jax.Array:
  """The product as JAX has it. A TPU's kernel sums in float32 whatever the dtype of its result."""
  rows_TI, sizes_E = given
  wide = None if tpu_forms() else jnp.float32
  y = jax.lax.ragged_dot(rows_TI, kernel_EIO.astype(rows_TI.dtype), sizes_E, preferred_element_type=wide)
  return y.astype(rows_TI.dtype)


def in_blocks(given: Given, kernel_EIO: jax.Array) -> jax.Array:
  """The product as dense ones, which `jax.vmap` maps over anything and JAX differentiates in any mode to any order:
  rows are laid out in blocks of one group each (Gale et al. 2022, section 4), and each block meets its group's matrix.

  A block holds T / E rows, so that there are at most 2 E of them and twice the rows, whatever the sizes.
  """
  rows_TI, sizes_E = given
  T, E = rows_TI.shape[0], kernel_EIO.shape[0]
  size = -(-T // E)
  blocks = T // size + E
  count_E, end_E, place_T = -(-sizes_E // size), jnp.cumsum(sizes_E), jnp.arange(T)
  last_E = jnp.cumsum(count_E)
  group_T = jnp.searchsorted(end_E, place_T, side="right")
  moved_E = (last_E - count_E) * size - (end_E - sizes_E)
  slot_T = jnp.where(group_T < E, place_T + moved_E.at[group_T].get(mode="clip"), blocks * size)
  laid_NSI = jnp.zeros((blocks * size, rows_TI.shape[1]), rows_TI.dtype).at[slot_T].set(rows_TI, mode="drop")
  laid_NSI = laid_NSI.reshape(blocks, size, -1)
  group_N = jnp.searchsorted(last_E, jnp.arange(blocks), side="right")
  kernel_NIO = kernel_EIO.astype(rows_TI.dtype).at[group_N].get(mode="clip")  # a block behind the last has no rows
  y_NSO = jnp.einsum("nsi,nio->nso", laid_NSI, kernel_NIO, preferred_element_type=jnp.float32)
  return y_NSO.reshape(blocks * size, -1).at[slot_T].get(mode="fill", fill_value=0).astype(rows_TI.dtype)


@jax.custom_vjp
def _multiply_tpu(given: Given, kernel_EIO: jax.Array) -> jax.Array:
  return multiply(given, kernel_EIO)


def _forward(given: Given, kernel_EIO: jax.Array) -> tuple[jax.Array, tuple[Given, jax.Array]]:
  return multiply(given, kernel_EIO), (given, kernel_EIO)


def _backward(kept: tuple[Given, jax.Array], dy_TO: jax.Array) -> tuple[Given, jax.Array]:
  given, kernel_EIO = kept
  of_given, _ = jax.vjp(multiply, given, kernel_EIO)[1](dy_TO)
  return of_given, kernel_gradient(given, dy_TO, kernel_EIO.dtype)


_multiply_tpu.defvjp(_forward, _backward)


def kernel_gradient(given: Given, dy_TO: jax.Array, dtype: jnp.dtype, interpret: bool = False) -> jax.Array:
  """For each group its rows transposed times their gradients (E, I, O), summed in float32; zeros for an empty one.

  interpret: run the kernel's program without a TPU, for tests.
  """
  from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm  # needs no TPU

  rows_TI, sizes_E = given
  tiles = [min(most, -(-size // LANES) * LANES) for most, size in
           ((TILE_ROWS, rows_TI.shape[0]), (TILE_INPUTS, rows_TI.shape[1]), (TILE_OUTPUTS, dy_TO.shape[1]))]
  whole = [(0, -rows_TI.shape[0] % tiles[0]), (0, 0)]
  rows_TI, dy_TO = jnp.pad(rows_TI, whole), jnp.pad(dy_TO.astype(rows_TI.dtype), whole)
  return tgmm(rows_TI.T, dy_TO, sizes_E, dtype, tuple(tiles), interpret=interpret)
