"""Two runs never share a workdir; a killed one blocks nobody."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.training.run_lock import RunLock

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
HOLD = """
import os, sys, time
from llm_jax.training.run_lock import RunLock
with RunLock(sys.argv[1]):
  if os.fork() == 0:  # a forked data worker that outlives its parent
    print("held", flush=True)  # said by the child: it has run since the fork
    time.sleep(30)
    os._exit(0)
  time.sleep(30)
"""


def test_the_second_is_refused_and_told_who(tmp_path):
  with RunLock(tmp_path / "run"):
    with pytest.raises(ConfigError) as caught:
      RunLock(tmp_path / "run").acquire()
    assert f"pid {os.getpid()} on {socket.gethostname()}" in str(caught.value)
    assert caught.value.exit_code == 2 and len(str(caught.value).splitlines()) <= 3
    with RunLock(tmp_path / "other"):
      pass
  with RunLock(tmp_path / "run"):
    assert json.loads((tmp_path / "run" / "run.lock").read_text())["pid"] == os.getpid()


def test_kill_frees_it_even_with_a_forked_child(tmp_path):
  holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True,
                            start_new_session=True, env=ENVIRONMENT)
  try:
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"pid {holder.pid}"):
      RunLock(tmp_path).acquire()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with RunLock(tmp_path):
      pass
  finally:
    os.killpg(holder.pid, signal.SIGKILL)
    holder.stdout.close()


def test_a_workdir_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ConfigError, match="cannot be written"):
    RunLock(tmp_path / "file" / "run").acquire()
