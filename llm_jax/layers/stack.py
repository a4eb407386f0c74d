"""Running a stack of equal layers: scanned or unrolled, with rematerialisation by name.

`blocks` is one module whose leaves have a leading 'layers' axis (core/model.py, `stack`). Layers may differ in what is
not a parameter (`kinds`: a sliding window, a rope base) and in a part that only some have (`parts`); the scan then runs
over one period of the pattern.
"""

import contextlib
import contextvars
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError, unknown_name
from llm_jax.core.held import held
from llm_jax.layers.recompute import in_loop
from llm_jax.parallel import pipeline as pipelines
from llm_jax.parallel import rules as sharding

# What the backward pass may keep from the forward pass; everything else is computed again.
POLICIES: dict[str, Any] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "offload_dots": jax.checkpoint_policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
    "split": None,  # the block itself has two checkpointed halves with attention outside both
    "split_wide": None,  # and keeps the wide arrays of the feed-forward block
}


_unrolled: contextvars.ContextVar[bool] = contextvars.ContextVar("unrolled_layers", default=False)


def unrolled(on: bool = True) -> contextlib.AbstractContextManager[bool]:
  """While tracing under this, `run` unrolls every stack and new caches hold one array per layer (cached decoding)."""
  return held(_unrolled, on)


def is_unrolled() -> bool:
  """Whether the caller is traced under `unrolled`."""
  return _unrolled.get()


def check_policy(name: str, key: str = "config.model.remat") -> str:
  """`name` if it is a remat policy.

  Raises:
    ConfigError: unknown name.
  """
  if name not in POLICIES:
    raise unknown_name(key, name, list(POLICIES), what="remat policy")
  return name


def period(kinds: Sequence[Any]) -> int:
  """Length of the shortest pattern that repeats over `kinds` (its last repetition may be cut)."""
  return next(p for p in range(1, len(kinds) + 1) if all(kinds[i] == kinds[i % p] for i in range(len(kinds))))


def run(blocks: Any, carry: Any, call: Callable[..., Any], *, kinds: Sequence[Any], scan: bool = True,
        remat: str = "none", per_layer: Any = None, collect: Callable[[Any], Any] | None = None,
        parts: Mapping[Any, Any] | None = None, part_of: Sequence[Any] = (), rows: Any = None,
        sums: Sequence[int] = (), pipeline: bool = True) -> tuple[Any, Any]:
  """Applies the layers in order -> (carry, collected).

  Args:
    blocks: stacked module, leaves (N, ...).
    carry: what flows from layer to layer (the residual stream, a cache).
    call: call(block, carry, layer index, kind, that layer's slice of `per_layer`) -> carry; with `rows`, those come
      last among the arguments.
    kinds: one static description per layer; scanned by the period of its pattern.
    scan: False unrolls the layers (compile time then grows with depth; the compiled step is a few percent faster).
    remat: name of a policy in POLICIES.
    per_layer: pytree of arrays with a leading N axis, e.g. dropout keys.
    collect: what to keep of the carry before each layer, stacked over layers (hidden states); None keeps nothing.
    parts: stacked modules that only some layers have, by name, each in the order of its layers (dense and sparse
      feed-forward blocks). part_of: the name of each layer's; `call` then gets (block, part) for the block.
    rows: pytree of all other arrays (B, ...) that `call` reads. A stack that names them can run as a pipeline where the
      mesh has stages: `carry`'s leaves are then (B, ...) too. sums: but for these members of `carry`, a tuple, to which
      layers add something for each row (router statistics).
    pipeline: False keeps the layers in one run all the same (a cache is carried).

  Raises:
    ConfigError: the mesh has stages and this stack cannot be a pipeline.
  """
  how = _How(call if rows is None else lambda *arguments: call(*arguments, rows), tuple(kinds), tuple(part_of),
             scan and not is_unrolled(), remat, collect)
  layers = _Layers(blocks, parts or {}, per_layer, 0)
  plan = pipelines.schedule(sharding.active()) if pipeline and collect is None else None
  if plan is None:
    return _in_order(how, layers, carry)
  if rows is None:
    raise ConfigError("config.mesh.stage", f"got {plan.stages}, and the layers of this network cannot be a pipeline",
                      accepted="1")
  return _pipelined(plan, how, layers, carry, rows, lambda rows: lambda *arguments: call(*arguments, rows), sums), None


class _How(NamedTuple):
  """What is known of some layers when tracing; see `run`."""

  call: Callable[..., Any]
  kinds: tuple[Any, ...]
  part_of: tuple[Any, ...]
  scan: bool
  remat: str
  collect: Callable[[Any], Any] | None

  @property
  def patterns(self) -> list[Any]:
    """What a repetition of layers must agree in."""
    return list(zip(self.kinds, self.part_of)) if self.part_of else list(self.kinds)


class _Layers(NamedTuple):
  """The arrays of some layers; first: index of the first of them."""

  blocks: Any
  parts: Mapping[Any, Any]
  per_layer: Any
  first: Any  # (R,) where there are several runs of layers


def _pipelined(plan: pipelines.Schedule, how: _How, layers: _Layers, carry: Any, rows: Any,
               reading: Callable[[Any], Callable], sums: Sequence[int]) -> Any:
  """-> carry. Each run of layers sees a micro-batch: its part of `carry` and `rows`, and random keys of its own.
  reading: `call` over these rows."""
  count = len(how.kinds)
  length, rest = divmod(count, plan.runs)
  patterns = [how.patterns[i * length:(i + 1) * length] for i in range(plan.runs)]
  if not rest and any(pattern != patterns[0] for pattern in patterns):
    raise ConfigError("config.mesh.stage", f"runs of {length} layers over {plan.stages} stages are not alike: the "
                      f"pattern of the layers repeats after {period(how.patterns)}",
                      accepted=f"stages x rounds that cut the {count} layers into multiples of {period(how.patterns)}")
  whole = carry if isinstance(carry, tuple) else (carry,)
  flowing = [i for i in range(len(whole)) if i not in sums]
  one_run = how._replace(kinds=how.kinds[:length], part_of=how.part_of[:length])

  def work(layers: _Layers, flow: Any, added: Any, number: jax.Array) -> tuple[Any, Any]:
    carried, rows = flow
    members = dict(zip(flowing, carried)) | dict(zip(sums, added))
    carry_in = tuple(members[i] for i in range(len(whole)))
    own = layers._replace(per_layer=jax.tree.map(lambda a: _fold(a, number), layers.per_layer), first=layers.first[0])
    out, _ = _in_order(one_run._replace(call=reading(rows)), own, carry_in if isinstance(carry, tuple) else carry_in[0])
    out = out if isinstance(carry, tuple) else (out,)
    return ([out[i] for i in flowing], rows), [out[i] for i in sums]

  flow, start = ([whole[i] for i in flowing], rows), [whole[i] for i in sums]
  (carried, _), added = pipelines.run(plan, work, layers._replace(first=jnp.arange(count)), flow, start)
  members = dict(zip(flowing, carried)) | dict(zip(sums, added))
  return tuple(members[i] for i in range(len(whole))) if isinstance(carry, tuple) else members[0]


def _fold(extra: jax.Array, number: jax.Array) -> jax.Array:
  """Random keys (N,) made those of a micro-batch; other arrays as they are."""
  if not jax.dtypes.issubdtype(extra.dtype, jax.dtypes.prng_key):
    return extra
  return jax.vmap(jax.random.fold_in, (0, None))(extra, number)


def _in_order(how: _How, layers: _Layers, carry: Any) -> tuple[Any, Any]:
  """As `run`, one layer after the other."""
  count, kinds, part_of, collect = len(how.kinds), how.kinds, how.part_of, how.collect
  blocks, parts, per_layer, first = layers
  layer_of = lambda blocks, parts, i: _at(blocks, i) if not parts else (
      _at(blocks, i), _at(parts[part_of[i]], part_of[:i].count(part_of[i])))
  def step(carry: Any, block: Any, index: jax.Array | int, kind: Any, extra: Any) -> tuple[Any, Any]:
    kept = None if collect is None else collect(carry)
    body = lambda block, carry, index, extra: how.call(block, carry, index, kind, extra)
    if POLICIES[check_policy(how.remat)] is not None:
      body = jax.checkpoint(body, policy=POLICIES[how.remat], prevent_cse=not how.scan)
    return body(block, carry, index, extra), kept

  size = period(how.patterns) if how.scan else count
  repeats = count // size if how.scan else 0
  whole = repeats * size
  kept_parts = []
  if repeats:
    fold = lambda tree, n=size: jax.tree.map(lambda a: a[:repeats * n].reshape(repeats, n, *a.shape[1:]), tree)
    of_period = {name: fold(part, part_of[:size].count(name)) for name, part in parts.items()}
    def group(carry: Any, xs: Any) -> tuple[Any, Any]:
      layers, of_period, extras, start = xs
      kept = []
      for i in range(size):
        carry, k = step(carry, layer_of(layers, of_period, i), start + i, kinds[i], _at(extras, i))
        kept.append(k)
      return carry, None if collect is None else jax.tree.map(lambda *a: jnp.stack(a), *kept)
    starts = first + jnp.arange(repeats) * size
    with in_loop():
      carry, kept = jax.lax.scan(group, carry, (fold(blocks), of_period, fold(per_layer), starts))
    kept_parts.append(jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), kept))
  tail = []
  for i in range(whole, count):
    carry, k = step(carry, layer_of(blocks, parts, i), first + i, kinds[i], _at(per_layer, i))
    tail.append(k)
  if collect is None:
    return carry, None
  if tail:
    kept_parts.append(jax.tree.map(lambda *a: jnp.stack(a), *tail))
  return carry, jax.tree.map(lambda *a: jnp.concatenate(a), *kept_parts)


def _at(tree: Any, index: int) -> Any:
  return jax.tree.map(lambda a: a[index], tree)
