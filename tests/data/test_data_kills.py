"""kill -9 while data are prepared is harmless: the next run makes the same store."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

import llm_jax
from llm_jax.data.fingerprint import file_digest

SCRIPT = textwrap.dedent("""
    import pathlib, sys
    from llm_jax.data import stdlib
    from llm_jax.data.corpus import DataContext
    print("ready", flush=True)
    stdlib.build(DataContext(0, pathlib.Path(sys.argv[1])), text="fallback",
                 tokenizer={"name": "sentencepiece", "vocab_size": 2000})
""")


def start(cache: pathlib.Path) -> subprocess.Popen:
  env = os.environ | {"PYTHONPATH": str(pathlib.Path(llm_jax.__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
  process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(cache)], env=env, stdout=subprocess.PIPE, text=True)
  assert process.stdout.readline() == "ready\n"
  return process


def content(cache: pathlib.Path) -> dict[str, str]:
  return {str(p.relative_to(cache)): file_digest(p) for p in sorted(cache.rglob("*")) if p.is_file()}


@pytest.mark.faults
def test_kills_while_preparing(tmp_path):
  began = time.monotonic()
  assert start(tmp_path / "whole").wait() == 0
  whole = time.monotonic() - began
  for i in range(8):
    process = start(tmp_path / "killed")
    time.sleep(0.06 * (i + 1) * whole)
    process.send_signal(signal.SIGKILL)
    process.wait()
  assert start(tmp_path / "killed").wait() == 0
  assert content(tmp_path / "killed") == content(tmp_path / "whole")
