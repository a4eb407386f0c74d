"""The C allocator's settings for training on a CPU: keep freed memory, in huge pages, instead of giving it back.

XLA's CPU backend allocates the temporary memory of a program afresh at every call. glibc serves blocks of that size by
mmap and unmaps them when they are freed, so that each step faults every page in again: a sixth of the step at 6 layers
of width 384. With these settings freed memory stays with the process, and the heap is in pages of 2 MiB, which saves
faults and TLB misses (another 2 to 3 % of that step). The price: it is process-wide, memory is not returned to the
system, and threads wait for each other in the one heap, so that the call which dispatches a step takes longer (about
1 ms, not 0.4; the device computes meanwhile). Linux with glibc only; elsewhere nothing happens. `LLM_JAX_MALLOC=0`
turns it off.
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
MADV_HUGEPAGE = 14  # <sys/mman.h>
HUGE_PAGE = 2 * 2**20


def tune_malloc() -> bool:
  """Applies the settings to this process -> whether they are in force. Call it before jax is imported."""
  if os.environ.get("LLM_JAX_MALLOC", "1") == "0" or not sys.platform.startswith("linux"):
    return False
  libc = ctypes.CDLL(None)
  if not hasattr(libc, "gnu_get_libc_version"):
    return False
  applied = [libc.mallopt(option, value) == 1 for option, value in SETTINGS]
  if all(applied):
    _ask_for_huge_pages(libc, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
  return all(applied)


def _ask_for_huge_pages(libc: ctypes.CDLL, size: int) -> None:
  """Lets the heap grow by `size` bytes of address space, untouched, and asks for huge pages where it will be used."""
  if not _address_space_is_free():
    return
  libc.malloc.argtypes, libc.malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p
  libc.free.argtypes = (ctypes.c_void_p,)
  libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
  block = libc.malloc(size)
  if block is None:  # a limit on address space
    return
  start = -(-block // HUGE_PAGE) * HUGE_PAGE
  libc.madvise(start, (block + size - start) // HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE)  # a kernel without them says no
  libc.free(block)


def _address_space_is_free() -> bool:
  """Whether the system lets a process have address space that it does not use."""
  try:
    with open("/proc/sys/vm/overcommit_memory") as file:
      return file.read().strip() != "2"
  except OSError:
    return False
