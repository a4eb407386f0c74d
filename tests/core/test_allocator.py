"""What the allocator's settings promise: memory that was freed is there again without a page fault."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="settings of glibc")

SIZE = 96 * 2**20
FAULTS = f"""
import ctypes, resource, sys
from llm_jax.core import allocator

def faults():
  block = libc.malloc({SIZE})
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  ctypes.memset(block, 1, {SIZE})
  after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  libc.free(block)
  return after - before

if len(sys.argv) > 1:
  resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
in_force = allocator.tune_malloc()
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype, libc.free.argtypes = [ctypes.c_size_t], ctypes.c_void_p, [ctypes.c_void_p]
first = faults()
print(int(in_force), first, faults())
"""
PAGES = SIZE // os.sysconf("SC_PAGE_SIZE")


def measured(*arguments: str, **environment: str) -> list[int]:
  """Whether the settings are in force, and the page faults of a block's first and of its second use."""
  done = subprocess.run([sys.executable, "-c", FAULTS, *arguments], env={**os.environ, **environment}, check=True,
                        capture_output=True, text=True)
  return [int(word) for word in done.stdout.split()]


def test_freed_memory_is_there_again_without_a_fault():
  in_force, first, again = measured()
  assert in_force and again < PAGES // 100
  assert first <= PAGES + PAGES // 100  # a page each; far fewer where the system gives huge ones


def test_without_the_settings_every_page_faults_again():
  in_force, _, again = measured(LLM_JAX_MALLOC="0")
  assert not in_force and again >= SIZE // (2 * 2**20)


def test_a_limit_on_address_space_is_no_error():
  in_force, _, again = measured(str(2**30))
  assert in_force and again < PAGES // 100
