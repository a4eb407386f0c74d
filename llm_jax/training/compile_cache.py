"""The persistent compilation cache, and whether it works: hits and misses are counted and shown."""

import dataclasses
import os
from typing import Any

import jax

HIT, MISS = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"


@dataclasses.dataclass
class Count:
  """Programs found in the cache and programs compiled since `enable`."""

  hits: int = 0
  misses: int = 0

  def __str__(self) -> str:
    return f"{self.hits} programs from the compile cache, {self.misses} compiled"


_count: Count | None = None


def enable(directory: str | os.PathLike) -> Count:
  """Keeps compiled programs in `directory` from now on; LLM_JAX_COMPILE_CACHE=0 leaves JAX as it is."""
  global _count
  if os.environ.get("LLM_JAX_COMPILE_CACHE", "1") != "0":
    jax.config.update("jax_compilation_cache_dir", os.fspath(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
  if _count is None:
    _count = Count()
    jax.monitoring.register_event_listener(_listen)
  return _count


def _listen(event: str, **_: Any) -> None:
  if _count is not None:
    _count.hits += event == HIT
    _count.misses += event == MISS
