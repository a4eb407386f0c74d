"""The C allocator's settings for training on a CPU: keep freed memory instead of giving it back after every step.

XLA's CPU backend allocates the temporary memory of a program afresh at every call. glibc serves blocks of that size by
mmap and unmaps them when they are freed, so that each step faults every page in again: a sixth of the step at 6 layers
of width 384. With these settings freed memory stays with the process. The price: it is process-wide, and memory is not
returned to the system. Linux with glibc only; elsewhere nothing happens. `LLM_JAX_MALLOC=0` turns it off.
"""

import ctypes
import os
import sys

# <malloc.h>, option and value.
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4
M_ARENA_MAX = -8
SETTINGS = (
    (M_MMAP_MAX, 0),  # large blocks come from the heap, not from mmap
    (M_TRIM_THRESHOLD, -1),  # the top of the heap is never given back: -1 becomes the largest size_t
    (M_ARENA_MAX, 1),  # one heap for all threads, so that a block freed by one serves another
    (M_TOP_PAD, 64 * 2**20),  # the heap grows by 64 MiB at a time
)


def tune_malloc() -> bool:
  """Applies the settings to this process -> whether they are in force. Call it before jax is imported."""
  if os.environ.get("LLM_JAX_MALLOC", "1") == "0" or not sys.platform.startswith("linux"):
    return False
  libc = ctypes.CDLL(None)
  if not hasattr(libc, "gnu_get_libc_version"):
    return False
  applied = [libc.mallopt(option, value) == 1 for option, value in SETTINGS]
  return all(applied)
