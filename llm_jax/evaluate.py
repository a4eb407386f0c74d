"""Door: measure a trained model on its evaluation sets, or on other data.

    python -m llm_jax.evaluate --workdir=runs/gpt2                       # newest good checkpoint, its own data
    python -m llm_jax.evaluate --workdir=runs/gpt2 --ema --step=2000
    python -m llm_jax.evaluate --workdir=runs/gpt2 --config.data.path=/data/other --config.evaluation.batches=50

Of data for few-shot learning it also reports what is learned from 0, 1 and all support examples of held-out tasks, by
gradient and in context, over --seeds draws of tasks: mean and worst.
"""

import json
import pathlib
from typing import Any

from absl import flags

from llm_jax import doors
from llm_jax.core.errors import ConfigError


def define(values: flags.FlagValues) -> None:
  """The flags of this door."""
  flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
  flags.DEFINE_string("config", None, "Another config than the run's own: FILE.py or FILE.py:argument.",
                      flag_values=values)
  flags.DEFINE_integer("step", None, "Checkpoint to measure; default the newest good one.", flag_values=values)
  flags.DEFINE_bool("ema", False, "Measure the averaged weights.", flag_values=values)
  flags.DEFINE_integer("seeds", 3, "Draws of held-out few-shot tasks; 0 measures none.", lower_bound=0,
                       flag_values=values)
  flags.DEFINE_string("out", None, "Also write the numbers to this JSON file.", flag_values=values)


def main(values: Any, overrides: doors.Overrides) -> int:
  """Measures and prints one name and number per line."""
  if values.workdir is None:
    raise ConfigError("--workdir", "required but not given", accepted="the folder of a run")
  from llm_jax import experiment, few_shot, pretrained
  from llm_jax.training import given_paths
  from llm_jax.training.weights import load_params

  workdir = pretrained.run_folder(values.workdir)
  out = None if values.out is None else pathlib.Path(values.out)
  if out is not None:
    given_paths.check_file(out, "--out")
  config = doors.read_config(values.config, values.workdir, overrides, experiment.SCHEMA)
  run = experiment.build(config)
  found = load_params(workdir / "checkpoints", step=values.step, ema=values.ema, frozen=True,
                      expected=run.abstract_state.params)
  params = {**found.params, **found.frozen}
  pretrained.check_fits(params, run.model, str(workdir))
  measured = run.evaluate(found.params, found.frozen)
  for name, value in {"step": found.step, **measured}.items():
    print(f"{name:<32} {value:.6g}")
  learned = few_shot.report(run, found.params, found.frozen, values.seeds) if values.seeds else {}
  if learned:
    print(few_shot.table(learned, values.seeds))
  if out is not None:
    document = {"step": found.step, **measured, **({"few_shot": learned} if learned else {})}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
  return 0


if __name__ == "__main__":
  doors.run(main, define)
