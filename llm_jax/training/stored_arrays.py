"""A train state as named arrays on disk, and back: the only file that talks to the array format (Orbax, TensorStore).

The state is stored as a flat dict of dotted names ('params.blocks.mlp.kernel', 'opt_state.0.mu.embed.table') beside a
table {name: shape, dtype}. So a mismatch is named before anything is read, parts can be read alone, arrays come back
on whatever mesh is asked for, and no class of another library is part of the format. Typed random keys are stored as
their data, arrays of size zero only in the table.
"""

import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from llm_jax.core.errors import CheckpointError
from llm_jax.core.names import difference

FOLDER = "state"  # of a step directory
COMMIT_TIMEOUT = 3600  # seconds for all hosts to finish writing one step
SHARED_AMONG_COPIES = 2**20  # bytes: devices that hold the same array write slices of it, none smaller than this
Table = dict[str, dict[str, Any]]


def named_leaves(state: Any) -> dict[str, Any]:
  """{dotted name: leaf} of a pytree, in its own order.

  Raises:
    ValueError: two leaves have one name.
  """
  leaves = jax.tree_util.tree_flatten_with_path(state)[0]
  named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
  if len(named) != len(leaves):
    raise ValueError("two leaves of the state have the same dotted name")
  return named


def table_of(leaves: Mapping[str, Any]) -> Table:
  """{name: {'shape', 'dtype'}} of arrays or ShapeDtypeStructs, as JSON."""
  for name, leaf in leaves.items():
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
      raise TypeError(f"state leaf {name} is a {type(leaf).__name__}; a train state holds jax arrays")
  return {name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype)} for name, leaf in leaves.items()}


def mismatch(saved: Table, wanted: Table, *, dtypes: bool = True, first: str = "", most: int = 4) -> str:
  """One line: the names that are missing or unexpected, then the arrays of another shape or dtype; '' if none.

  first: a prefix; when names with it differ, only they are listed (the optimizer's arrays follow the parameters').
  """
  parts = [difference(saved, wanted, most)]
  show = lambda entry: f"{entry['dtype']}{entry['shape']}" if dtypes else str(entry["shape"])
  other = [f"{n} is {show(saved[n])}, expected {show(wanted[n])}" for n in sorted(wanted)
           if n in saved and show(saved[n]) != show(wanted[n])]
  parts += [", ".join(other[:most]) + (f", ... ({len(other)} in all)" if len(other) > most else "")]
  everything = "; ".join(p for p in parts if p)
  under = lambda table: {n: entry for n, entry in table.items() if n.startswith(first)}
  return (first and mismatch(under(saved), under(wanted), dtypes=dtypes, most=most)) or everything


def stored_bytes(leaves: Mapping[str, Any]) -> int:
  """Bytes that these arrays take on disk at most, with the format's own overhead."""
  return int(1.02 * sum(leaf.nbytes for leaf in leaves.values())) + 4096 * (len(leaves) + 4)


def make_writer() -> ocp.AsyncCheckpointer:
  """An Orbax writer; uncompressed, because trained weights gain 8 % and the cores are the training's."""
  logging.getLogger("absl").addFilter(_not_told_twice)
  arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SHARED_AMONG_COPIES)
  kinds = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
  return ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=kinds),
                               timeout_secs=COMMIT_TIMEOUT)


def start_write(writer: ocp.AsyncCheckpointer, path: pathlib.Path, leaves: Mapping[str, jax.Array]) -> None:
  """Copies the arrays off the devices, then writes them in the background; `writer.wait_until_finished()` ends it."""
  arrays = {name: jax.random.key_data(leaf) if _is_key(leaf) else leaf for name, leaf in leaves.items() if leaf.size}
  writer.save(path, args=ocp.args.PyTreeSave(arrays))


def read(path: pathlib.Path, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
  """The arrays named in `wanted` with its dtypes and shardings (none: this process's first device), same bits.

  Names and shapes must have been compared before, see `mismatch`.

  Raises:
    CheckpointError: the files cannot be read.
  """
  place = {name: leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
           for name, leaf in wanted.items()}
  full = {name: leaf for name, leaf in wanted.items() if leaf.size}
  plain = {name: jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf for name, leaf in full.items()}
  how = {name: ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=place[name], global_shape=leaf.shape,
                                    dtype=leaf.dtype, strict=True) for name, leaf in plain.items()}
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      args = ocp.args.PyTreeRestore(item=plain, restore_args=how, partial_restore=True)
      arrays = reader.restore(path, args=args) if plain else {}
  except Exception as e:  # whatever the array library raises, the user gets one error
    raise CheckpointError(f"{path} cannot be read: {first_line(e)}") from e
  empty: Callable = lambda name: jax.device_put(jnp.zeros(wanted[name].shape, wanted[name].dtype), place[name])
  return {name: _as_leaf(arrays[name], leaf) if name in full else empty(name) for name, leaf in wanted.items()}


def first_line(error: BaseException) -> str:
  """The first line of an error's text, its middle cut if need be: the cause stands at the end."""
  line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
  line = line.split(" [source locations")[0]
  return line if len(line) <= 240 else f"{line[:100]} ... {line[-130:]}"


def _not_told_twice(record: logging.LogRecord) -> bool:
  """Keeps hundreds of lines of traceback off the screen for an error that is raised anyway, see `first_line`."""
  return not (record.exc_info and "orbax" in record.pathname)


def _is_key(leaf: Any) -> bool:
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_leaf(array: jax.Array, wanted: jax.ShapeDtypeStruct) -> jax.Array:
  return jax.random.wrap_key_data(array, impl=wanted.dtype) if _is_key(wanted) else array
