"""A trainer in miniature that dies on command; run by test_checkpoint_kill.py in a process of its own.

`python killed_saver.py DIR STEPS POINT...`: for every point a child resumes from DIR, trains to STEPS and saves every
step. Point `n` kills the child (-9) just before its n-th change to the file system, `t0.12` kills it after 0.12 seconds
of training, `end` lets it finish. One line of JSON per point says what a reader finds afterwards.
"""

import json
import os
import pathlib
import shutil
import signal
import sys
import threading

import jax
import jax.numpy as jnp

from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.good_steps import newest_good


@jax.jit
def update(state):
  noise = jax.random.normal(jax.random.fold_in(state["key"], state["step"]), state["w"].shape)
  return {**state, "w": state["w"] * 0.9 + noise, "step": state["step"] + 1}


def start():
  return {"w": jnp.zeros((32, 64)), "key": jax.random.key(1), "step": jnp.int32(0)}


def train(directory, steps):
  with Checkpoints(directory, keep=2) as checkpoints:
    resume = checkpoints.latest_good()
    state = start() if resume is None else checkpoints.restore(resume, start())[0]
    assert resume is None or int(state["step"]) == resume
    while int(state["step"]) < steps:
      state = update(state)
      checkpoints.save(int(state["step"]), state, {"step": int(state["step"])})


def die():
  os.kill(os.getpid(), signal.SIGKILL)


def die_before_change(number):
  """Replaces the functions that change directories by ones that count and kill."""
  count = iter(range(1, 1 << 30))

  def counted(function):
    def call(*args, **kwargs):
      if next(count) == number:
        die()
      return function(*args, **kwargs)
    return call

  for module, name in [(os, "rename"), (os, "replace"), (os, "mkdir"), (os, "fsync"), (os, "unlink"), (os, "rmdir"),
                       (shutil, "rmtree")]:
    setattr(module, name, counted(getattr(module, name)))


def child(directory, steps, point):
  if point.startswith("t"):
    update(start())  # compile before the clock starts
    threading.Timer(float(point[1:]), die).start()
  elif point != "end":
    die_before_change(int(point))
  train(directory, steps)


def main(directory, steps, *points):
  for point in points:
    pid = os.fork()
    if pid == 0:
      try:
        child(directory, int(steps), point)
        sys.stdout.flush()
        os._exit(0)
      except BaseException as e:
        print(repr(e), file=sys.stderr, flush=True)
        os._exit(1)
    status = os.waitpid(pid, 0)[1]
    folder = pathlib.Path(directory)
    print(json.dumps({"point": point, "status": os.waitstatus_to_exitcode(status),
                      "good": newest_good(folder, set_aside=False),
                      "names": sorted(p.name for p in folder.iterdir()) if folder.exists() else []}), flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
