"""Running a stack of equal layers: scanned or unrolled, with rematerialisation by name.

`blocks` is one module whose leaves have a leading 'layers' axis (core/model.py, `stack`). Layers may differ in what is
not a parameter (`kinds`: a sliding window, a rope base) and in a part that only some have (`parts`); the scan then runs
over one period of the pattern.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.errors import unknown_name

# What the backward pass may keep from the forward pass; everything else is computed again.
POLICIES: dict[str, Any] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "offload_dots": jax.checkpoint_policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
    "split": None,  # the block itself has two checkpointed halves with attention outside both
}


_unrolled: contextvars.ContextVar[bool] = contextvars.ContextVar("unrolled_layers", default=False)


@contextlib.contextmanager
def unrolled(on: bool = True) -> Iterator[None]:
  """While tracing under this, `run` unrolls every stack and new caches hold one array per layer (cached decoding)."""
  token = _unrolled.set(on)
  try:
    yield
  finally:
    _unrolled.reset(token)


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


def run(blocks: Any, carry: Any, call: Callable[[Any, Any, jax.Array | int, Any, Any], Any], *, kinds: Sequence[Any],
        scan: bool = True, remat: str = "none", per_layer: Any = None,
        collect: Callable[[Any], Any] | None = None, parts: Mapping[Any, Any] | None = None,
        part_of: Sequence[Any] = ()) -> tuple[Any, Any]:
  """Applies the layers in order -> (carry, collected).

  Args:
    blocks: stacked module, leaves (N, ...).
    carry: what flows from layer to layer (the residual stream, a cache).
    call: call(block, carry, layer index, kind, that layer's slice of `per_layer`) -> carry.
    kinds: one static description per layer; scanned by the period of its pattern.
    scan: False unrolls the layers (compile time then grows with depth; the compiled step is a few percent faster).
    remat: name of a policy in POLICIES.
    per_layer: pytree of arrays with a leading N axis, e.g. dropout keys.
    collect: what to keep of the carry before each layer, stacked over layers (hidden states); None keeps nothing.
    parts: stacked modules that only some layers have, by name, each in the order of its layers (dense and sparse
      feed-forward blocks). part_of: the name of each layer's; `call` then gets (block, part) for the block.
  """
  count, scan = len(kinds), scan and not is_unrolled()
  layer_of = lambda blocks, parts, i: _at(blocks, i) if not parts else (
      _at(blocks, i), _at(parts[part_of[i]], list(part_of[:i]).count(part_of[i])))
  def step(carry: Any, block: Any, index: jax.Array | int, kind: Any, extra: Any) -> tuple[Any, Any]:
    kept = None if collect is None else collect(carry)
    body = lambda block, carry, index, extra: call(block, carry, index, kind, extra)
    if remat not in ("none", "split"):
      body = jax.checkpoint(body, policy=POLICIES[check_policy(remat)], prevent_cse=not scan)
    return body(block, carry, index, extra), kept

  size = period(list(zip(kinds, part_of)) if parts else kinds) if scan else count
  repeats = count // size if scan else 0
  whole = repeats * size
  kept_parts = []
  if repeats:
    fold = lambda tree, n=size: jax.tree.map(lambda a: a[:repeats * n].reshape(repeats, n, *a.shape[1:]), tree)
    of_period = {name: fold(part, list(part_of[:size]).count(name)) for name, part in (parts or {}).items()}
    def group(carry: Any, xs: Any) -> tuple[Any, Any]:
      layers, of_period, extras, first = xs
      kept = []
      for i in range(size):
        carry, k = step(carry, layer_of(layers, of_period, i), first + i, kinds[i], _at(extras, i))
        kept.append(k)
      return carry, None if collect is None else jax.tree.map(lambda *a: jnp.stack(a), *kept)
    carry, kept = jax.lax.scan(group, carry, (fold(blocks), of_period, fold(per_layer), jnp.arange(repeats) * size))
    kept_parts.append(jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), kept))
  tail = []
  for i in range(whole, count):
    carry, k = step(carry, layer_of(blocks, parts, i), i, kinds[i], _at(per_layer, i))
    tail.append(k)
  if collect is None:
    return carry, None
  if tail:
    kept_parts.append(jax.tree.map(lambda *a: jnp.stack(a), *tail))
  return carry, jax.tree.map(lambda *a: jnp.concatenate(a), *kept_parts)


def _at(tree: Any, index: int) -> Any:
  return jax.tree.map(lambda a: a[index], tree)
