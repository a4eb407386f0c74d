"""Runs a study: every run of its sweep through the train door, k at a time, resumable; then results.json and figure.

    python -m experiments.run parity
    python -m experiments.run parity --parallel=4 --only='curriculum.*seed=0' --runs=/scratch/runs

A study is a folder with a config.py that defines

    get_config(arg)         as every config file
    sweep(add)              add(arm, {'train.seed': 0}, arg='...') for every run; runs of one arm differ by seed
    MEASURES                {name: function of the run's metrics rows}, see experiments/measures.py
    CURVES                  names of the metrics to plot, e.g. ['eval/loss']

A run that has finished is not run again, one that was stopped goes on from its checkpoint: the same command resumes. A
run that results.json has and whose workdir is not here, because another machine ran it, stays there as it is.
"""

import argparse
import concurrent.futures
import dataclasses
import importlib
import json
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import figure, measures
from llm_jax.core.errors import nearest_name
from llm_jax.training import machine, metrics, run_directory

HERE = pathlib.Path(__file__).parent
WALL = "wall_seconds.json"


@dataclasses.dataclass(frozen=True)
class Item:
  """One run of a sweep. arm: what is compared; arg: of get_config; overrides: {config path: value}."""

  arm: str
  arg: str
  overrides: Mapping[str, Any]

  @property
  def name(self) -> str:
    """The run's folder, e.g. 'curriculum,seed=0'."""
    parts = [self.arm, *(f"{path.rsplit('.', 1)[-1]}={value}" for path, value in self.overrides.items())]
    return re.sub(r"[^\w.,=+-]", "_", ",".join(parts))


def study(name: str) -> Any:
  """The config module of a study; SystemExit 2 with the nearest name if there is none."""
  names = sorted(p.parent.name for p in HERE.glob("*/config.py"))
  if name not in names:
    near = nearest_name(name, names)
    print(f"error: no study {name!r}{f', did you mean {near}' if near else ''}; there are {', '.join(names)}",
          file=sys.stderr)
    raise SystemExit(2)
  return importlib.import_module(f"experiments.{name}.config")


def items(module: Any) -> list[Item]:
  """The runs of a study's sweep, in its order."""
  found: list[Item] = []
  module.sweep(lambda arm, overrides=None, arg="": found.append(Item(arm, arg, dict(overrides or {}))))
  return found


def run(name: str, item: Item, folder: pathlib.Path) -> int:
  """Trains one run in a process of its own, unless it has finished -> exit code. Its log is DIR/log.txt."""
  workdir = folder / item.name
  if (run_directory.read_document(workdir, run_directory.STATUS) or {}).get("state") == "finished":
    return 0
  workdir.mkdir(parents=True, exist_ok=True)
  command = [sys.executable, "-m", "llm_jax.train", f"--workdir={workdir}",
             f"--config={HERE / name / 'config.py'}" + (f":{item.arg}" if item.arg else ""),
             *(f"--config.{path}={value}" for path, value in item.overrides.items())]
  start = time.perf_counter()
  with (workdir / "log.txt").open("ab") as log:
    code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
  before = json.loads((workdir / WALL).read_text()) if (workdir / WALL).exists() else 0.0
  (workdir / WALL).write_text(json.dumps(before + time.perf_counter() - start))
  return code


def collect(module: Any, chosen: Sequence[Item], folder: pathlib.Path,
            earlier: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
  """What results.json holds: the runs with their measures, and each arm's mean and spread over its runs. earlier: runs
  as it held them, for those that are not in `folder`."""
  kept = {Item(r["arm"], "", r["overrides"]).name: r for r in earlier
          if r["measures"].keys() == module.MEASURES.keys() and r["curves"].keys() == set(module.CURVES)}
  found = [measured(module, i, folder / i.name) if finished(folder / i.name) else kept.get(i.name) for i in chosen]
  runs = [r for r in found if r is not None]
  arms = {arm: {name: measures.spread([r["measures"][name] for r in runs if r["arm"] == arm])
                for name in module.MEASURES} for arm in dict.fromkeys(r["arm"] for r in runs)}
  return {"arms": arms, "runs": runs, "machine": machine.describe()}


def measured(module: Any, item: Item, workdir: pathlib.Path) -> dict[str, Any]:
  """A finished run as results.json has it."""
  rows = metrics.rows(workdir)
  seconds = json.loads((workdir / WALL).read_text()) if (workdir / WALL).exists() else None
  return {"arm": item.arm, "overrides": dict(item.overrides),
          "measures": {name: measure(rows) for name, measure in module.MEASURES.items()},
          "wall_seconds": None if seconds is None else round(seconds, 1),
          "curves": {name: measures.curve(rows, name) for name in module.CURVES}}


def main(arguments: Sequence[str] | None = None) -> int:
  """The exit code: 0, or 1 if a run failed."""
  parser = argparse.ArgumentParser(prog="experiments.run", description="Run a study.")
  parser.add_argument("name", help="a folder of experiments/")
  parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
  parser.add_argument("--only", default="", help="regular expression over the names of runs")
  parser.add_argument("--runs", default="runs/experiments", help="folder of the workdirs")
  parser.add_argument("--list", action="store_true", help="print the runs and stop")
  given = parser.parse_args(arguments)
  module = study(given.name)
  chosen = [item for item in items(module) if re.search(given.only, item.name)]
  if given.list or not chosen:
    print("\n".join(item.name for item in chosen) or "no run has such a name")
    return 0 if chosen else 2
  folder = (pathlib.Path(given.runs) / given.name).absolute()
  failed = []
  with concurrent.futures.ThreadPoolExecutor(max(given.parallel, 1)) as pool:
    for item, code in zip(chosen, pool.map(lambda item: run(given.name, item, folder), chosen), strict=True):
      print(f"{item.name}: {'done' if code == 0 else f'exit {code}, see {folder / item.name}/log.txt'}", flush=True)
      failed += [item] if code else []
  target = HERE / given.name
  written = target / "results.json"
  earlier = json.loads(written.read_text())["runs"] if written.exists() else []
  results = collect(module, [i for i in items(module) if i not in failed], folder, earlier)
  written.write_text(json.dumps(results, indent=1) + "\n")
  figure.draw(results["runs"], module.CURVES).savefig(target / "figure.svg", metadata={"Date": None})
  print(measures.table(results["arms"]))
  return 1 if failed else 0


def finished(workdir: pathlib.Path) -> bool:
  """Has this run finished?"""
  return (run_directory.read_document(workdir, run_directory.STATUS) or {}).get("state") == "finished"


if __name__ == "__main__":
  sys.exit(main())
