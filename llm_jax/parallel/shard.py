"""Running a function on each device's own part of its arrays: for kernels that the compiler cannot split by itself."""

from collections.abc import Callable, Sequence

import jax

from llm_jax.parallel import rules

Axes = tuple[str | None, ...]


def per_shard(function: Callable[..., jax.Array], in_axes: Sequence[Axes], out_axes: Axes,
              summed: str | None = None) -> Callable[..., jax.Array]:
  """`function` over the local parts of arrays with these logical axes; `function` itself when nothing is split.

  The function must treat the split axes independently (rows of a batch, heads): nothing is exchanged between devices,
  but that results are added up over the devices that split the axis `summed` (a contraction's), where any do.
  The result's split axes must have the sizes that they have in the first argument.
  """
  active = rules.active()
  if active is None or active.mesh.size == 1:
    return function

  def run(*arrays: jax.Array) -> jax.Array:
    specs = tuple(active.spec(axes, x.shape, "argument of a kernel") for axes, x in zip(in_axes, arrays))
    sizes = dict(zip(in_axes[0], arrays[0].shape))
    out = active.spec(out_axes, [sizes[a] if a else 1 for a in out_axes], "result of a kernel")
    over = {entry for axes, spec in zip(in_axes, specs) for axis, entry in zip(axes, spec) if axis == summed and entry}
    local = (lambda *parts: jax.lax.psum(function(*parts), *over)) if over else function
    return jax.shard_map(local, mesh=active.mesh, in_specs=specs, out_specs=out, check_vma=False)(*arrays)
  return run


def ways(axis: str, size: int) -> int:
  """Over how many devices the active rules split a logical axis of this size; 1 without rules."""
  active = rules.active()
  if active is None:
    return 1
  entry = active.spec((axis,), (size,))[0]
  count = 1
  for name in (entry,) if isinstance(entry, str) else entry or ():
    count *= active.mesh.shape[name]
  return count
