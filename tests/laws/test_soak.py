"""Two thousand steps leave the process as it was after the first hundred: memory, threads, open files, programs."""

import json
import os
import pathlib
import subprocess
import sys

import door
import pytest

STEPS = 2000
# Of memory, from step 500 on: less than the arrays of a step each step, a hundred megabytes. Saving a checkpoint leaves
# some 50 kB behind in tensorstore, whatever is saved, and the allocator its pieces.
MOST = 16_000_000
WATCH = """
import json, os, pathlib, sys, threading
sys.path.insert(0, {laws!r})
import door
from llm_jax import experiment
from llm_jax.core import config as configs
from llm_jax.training.session import Session

config = configs.load_file(door.TINY)
config["train"] |= dict(steps={steps})
config["evaluation"] |= dict(every=100)
config["checkpoint"] = dict(every=50)
config["sample"] = dict(every=0)
run = experiment.build(config)
workdir = pathlib.Path(sys.argv[1])
seen = []

def look():
  pages = int(open("/proc/self/statm").read().split()[1])
  seen.append(dict(rss=pages * os.sysconf("SC_PAGE_SIZE"), threads=threading.active_count(),
                   files=len(os.listdir("/proc/self/fd")), saved=len(list((workdir / "checkpoints").glob("*"))),
                   programs=run.compiled_step._cache_size(), evaluations=run.compiled_eval_step._cache_size()))

class Watched(Session):
  def _evaluate(self, state):
    found = super()._evaluate(state)
    look()
    return found

Watched(run, workdir, lambda state: [], lambda length: 1.0).train()
print("seen:" + json.dumps(seen))
"""


@pytest.mark.faults
@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="reads /proc")
def test_two_thousand_steps_leak_nothing(tmp_path):
  program = WATCH.format(laws=str(pathlib.Path(__file__).parent), steps=STEPS)
  done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "run")], cwd=door.ROOT, capture_output=True,
                        env=door.environment(1, LLM_JAX_MALLOC="1"), text=True, timeout=1500)
  assert done.returncode == 0, done.stderr
  seen = json.loads(done.stdout[done.stdout.index("seen:") + 5:])
  assert len(seen) == STEPS // 100
  first, last = seen[4], seen[-1]
  print(json.dumps([first, last]))
  assert last["rss"] < first["rss"] + MOST, seen
  assert last["threads"] <= first["threads"] and last["files"] <= first["files"], seen
  assert max(s["saved"] for s in seen) <= 6, "checkpoints pile up"
  assert {s["programs"] for s in seen} == {1} and {s["evaluations"] for s in seen} == {1}, seen
  assert os.path.getsize(tmp_path / "run" / "metrics.jsonl") < 1_000_000
