"""What the allocator promises: freed memory is there again without a page fault, and a program that asks for it goes on
as the same process, with its arguments, input and environment."""

import os
import subprocess
import sys

import pytest

from llm_jax.core import allocator

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="is preloaded on Linux")

SIZES = (96 * 2**20, 3 * 2**30 // 2)  # within and beyond what mimalloc reserves at a time
FAULTS = """
import ctypes, resource, sys
size = int(sys.argv[1])
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype, libc.free.argtypes = [ctypes.c_size_t], ctypes.c_void_p, [ctypes.c_void_p]
def faults():
  block = libc.malloc(size)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  for page in range(0, size, 4096):
    ctypes.memset(block + page, 1, 1)
  after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  libc.free(block)
  return after - before
print(faults(), faults())
"""
PROGRAM = """
import os, sys
from llm_jax.core import allocator
print("started")
allocator.restart()
print(allocator.name(), os.getpid(), sys.argv[1:], sys.stdin.read(), os.environ.get("LD_PRELOAD", ""), sep="|")
sys.exit(7)
"""


def environment(**changes: str) -> dict[str, str]:
  """This process's environment, without an allocator and with the changes."""
  return {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "LLM_JAX_MALLOC")} | changes


def faults(size: int, preloaded: bool) -> list[int]:
  """Page faults of a block's first use and of the same size's next one."""
  base = environment()
  done = subprocess.run([sys.executable, "-c", FAULTS, str(size)], capture_output=True, text=True, check=True,
                        env=base | (allocator.preload(base) if preloaded else {}))
  return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize("size", [SIZES[0], pytest.param(SIZES[1], marks=pytest.mark.slow)])
def test_freed_memory_is_there_again_without_a_fault(size):
  first, again = faults(size, preloaded=True)
  pages = size // os.sysconf("SC_PAGE_SIZE")
  assert again < first / 20 and again < pages // 100
  assert first <= pages + pages // 100  # a page each; far fewer where the system gives huge ones


def test_without_the_allocator_a_large_block_faults_again():
  _, again = faults(SIZES[0], preloaded=False)
  assert again >= SIZES[0] // 2**21  # one for each huge page, where the system gives them


def started(*options: str, **changes: str) -> tuple[subprocess.Popen, str, list[str]]:
  """A program that asks for the allocator -> (its process, ended; what it said on the way; its last line, in parts)."""
  process = subprocess.Popen([sys.executable, *options, "-c", PROGRAM, "two words", "--config.x=1", ""],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=environment(**changes))
  out, errors = process.communicate("typed", timeout=60)
  return process, errors, out.rstrip("\n").split("\n")


def test_a_program_goes_on_as_the_same_process_with_the_allocator():
  process, errors, lines = started("-X", "utf8")
  assert lines[:2] == ["started", "started"] and len(lines) == 3 and not errors
  name, pid, arguments, typed, _ = lines[-1].split("|")
  assert (name, int(pid), process.returncode) == ("mimalloc", process.pid, 7)
  assert (arguments, typed) == (str(["two words", "--config.x=1", ""]), "typed")


@pytest.mark.parametrize("changes", [dict(LLM_JAX_MALLOC="0"), dict(LD_PRELOAD="/nowhere/libjemalloc.so.2")])
def test_it_is_turned_off_and_gives_way_to_another(changes):
  _, _, lines = started(**changes)
  assert lines[0] == "started" and len(lines) == 2 and lines[1].startswith("other|")


def test_what_was_preloaded_before_stays():
  _, _, lines = started(LD_PRELOAD="/nowhere/libother.so")
  assert lines[-1].startswith("mimalloc|") and lines[-1].endswith(" /nowhere/libother.so")


def test_a_library_that_cannot_be_loaded_ends_in_no_loop(tmp_path):
  (tmp_path / "libmimalloc.so.3").write_text("no library")
  broken = dict(LD_PRELOAD=str(tmp_path / "libmimalloc.so.3"))
  assert allocator.preload(broken) == {}
  _, _, lines = started(**broken)
  assert len(lines) == 2 and lines[1].startswith("other|")


def test_a_path_that_ld_preload_cannot_hold_is_not_preloaded(monkeypatch):
  monkeypatch.setattr(allocator, "path", lambda: "/my folder/libmimalloc.so.3")
  assert allocator.preload({}) == {}


def test_a_door_under_it_ends_as_a_door_does():
  done = subprocess.run([sys.executable, "-m", "llm_jax.train", "config.lr=1"], env=environment(), capture_output=True,
                        text=True, check=False)
  assert done.returncode == 2 and not done.stdout
  assert done.stderr.count("'config.lr=1'") == 1 and len(done.stderr.splitlines()) < 10


def test_nothing_is_preloaded_where_the_package_is_missing(monkeypatch):
  monkeypatch.setattr(allocator, "PACKAGE", "no-such-package")
  assert allocator.path() is None and allocator.preload({}) == {}


def test_a_limit_on_address_space_is_no_error():
  base = environment()
  limited = ["sh", "-c", 'ulimit -v 1048576; exec "$@"', "sh", sys.executable, "-c", "print(sum(bytearray(2**20)))"]
  done = subprocess.run(limited, env=base | allocator.preload(base), capture_output=True, text=True, check=False)
  assert (done.returncode, done.stdout) == (0, "0\n")
