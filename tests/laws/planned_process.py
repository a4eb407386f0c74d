"""One process of a run that tells what it planned: `python planned_process.py CONFIG.json WORKDIR`, started with the
environment of a launcher (llm_jax/parallel/cluster.py). Its last line is JSON: the plan of every step that it made, and
the curriculum's state at the end.
"""

import dataclasses
import json
import os
import pathlib
import sys

if __name__ == "__main__":
  from llm_jax.parallel import cluster

  here = cluster.find(os.environ)
  if here is not None:
    cluster.join(here)

  from llm_jax import experiment
  from llm_jax.data.ahead import Ahead
  from llm_jax.run import Run
  from llm_jax.training.session import Session

  plans, states = [], []

  def told(batches):
    """The batches as they are, each one's plan written down when it is asked for."""
    try:
      for step, plan, batch in batches:
        plans.append([step, plan.batch, plan.length, plan.mixture, plan.knobs])
        yield step, plan, batch
    finally:
      batches.close()

  class Told(Run):
    """Tells its plans."""

    def batches(self, start, position):
      return Ahead(told(super().batches(start, position)), early=False)

  class Kept(Session):
    """Keeps the curriculum's last state."""

    def _result(self, position):
      states.append(position.curriculum)
      super()._result(position)

  built = experiment.build(json.loads(pathlib.Path(sys.argv[1]).read_text()))
  run = Told(**{f.name: getattr(built, f.name) for f in dataclasses.fields(built)})
  Kept(run, pathlib.Path(sys.argv[2]), lambda state: [], lambda length: 0.0, watchdog_seconds=60.0).train()
  print("\n" + json.dumps({"plans": plans, "state": states}), flush=True)
