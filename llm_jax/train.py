"""Door: train, or resume. The same command on a CPU, a GPU box, a TPU slice.

    python -m llm_jax.train --config=configs/gpt2.py:124m --workdir=runs/gpt2 --config.optimizer.peak=3e-4
    python -m llm_jax.train --config=configs/gpt2.py:debug --dry_run
    python -m llm_jax.train --config=configs/gpt2.py:debug --describe_config
    python -m llm_jax.train --config=configs/gpt2.py:debug --workdir=/tmp/range --config.optimizer.decay=range_test \
        --config.optimizer.warmup=0 --config.optimizer.peak=1 --config.log.every=1      # which rate to use?
"""

import itertools
import pathlib
from typing import Any

from absl import flags

from llm_jax import doors
from llm_jax.core.errors import ConfigError, DivergedError


def define(values: flags.FlagValues) -> None:
  """The flags of this door."""
  flags.DEFINE_string("config", None, "FILE.py or FILE.py:argument; then --config.key=value.", flag_values=values)
  flags.DEFINE_string("workdir", None, "Folder of the run; the same command again resumes it.", flag_values=values)
  flags.DEFINE_bool("dry_run", False, "Validate and print what would run, without training.", flag_values=values)
  flags.DEFINE_bool("describe_config", False, "Print every knob with its meaning.", flag_values=values)
  flags.DEFINE_string("init_from", None, "Start from the weights of a workdir or a Hugging Face folder.",
                      flag_values=values)
  flags.DEFINE_string("profile", "", "FIRST:LAST, steps to trace into DIR/profile.", flag_values=values)
  flags.DEFINE_float("watchdog_seconds", 120.0, "A step may take at least so long before the run is taken for stuck.",
                     flag_values=values)


def main(values: Any, overrides: doors.Overrides) -> int:
  """Reads the config, then describes, dry-runs or trains."""
  from llm_jax import experiment
  from llm_jax.core import config as configs

  config = doors.read_config(values.config, values.workdir, overrides, experiment.SCHEMA)
  if values.describe_config:
    print(configs.describe(configs.resolve(config, experiment.SCHEMA), experiment.SCHEMA))
    return 0
  check_flags(values)
  run = experiment.build(on_these_devices(config))
  from llm_jax import launch_checks, pretrained

  if values.dry_run:
    from llm_jax import dry_run

    if values.init_from is not None and not resumes(values):
      pretrained.initial(values.init_from, run.base)  # whether it fits
    print(dry_run.describe(run))
    return 0
  from llm_jax.inference import samples
  from llm_jax.training import flops, settings
  from llm_jax.training.session import Session

  workdir = pathlib.Path(values.workdir)
  if not resumes(values):  # whose other data would be told as such
    launch_checks.check_enough(run)
  section, tokenizer = settings.sample(**run.config["sample"]), run.corpus.tokenizer
  if section.every and tokenizer is None:
    raise ConfigError("config.sample.every", f"got {section.every}, but this data is no text", accepted="0")
  sampler = samples.Sampler(run.model, tokenizer, section, run.train.seed) if tokenizer else samples.none
  start = None if values.init_from is None else (
      lambda: run.state_from(pretrained.initial(values.init_from, run.base)))
  session = Session(run, workdir, sampler, lambda length: flops.per_token(run.model, length), start, values.profile,
                    values.watchdog_seconds)
  ranges = run.config["optimizer"]["decay"] == "range_test"
  try:
    session.train()
  except DivergedError as e:
    if not ranges:  # a range test goes on until it diverges
      raise
    print(f"learning-rate range test: the loss diverged, {str(e).splitlines()[0]}")
  if ranges:
    print(suggested_rate(workdir))
  if run.config["log"]["report"]:
    print(f"report: {workdir / 'report.html'}")
  return 0


def check_flags(values: Any) -> None:
  """What the flags name, before any work, in a dry run too.

  Raises:
    ConfigError: a flag that the run could not use. DataError, CheckpointError: what it names is damaged.
  """
  from llm_jax import pretrained
  from llm_jax.training import profiler
  from llm_jax.training.workdir import check_workdir

  profiler.parse(values.profile, "")
  if not values.watchdog_seconds > 0:
    raise ConfigError("--watchdog_seconds", f"got {values.watchdog_seconds:g}", accepted="seconds, more than 0")
  if values.workdir is None and not values.dry_run:
    raise ConfigError("--workdir", "required but not given", accepted="the folder that the run is to be written to")
  if values.workdir is not None:
    check_workdir(pathlib.Path(values.workdir))
  if values.init_from is not None and not resumes(values):
    pretrained.check_source(values.init_from)


def resumes(values: Any) -> bool:
  """Whether the workdir has checkpoints to go on from."""
  from llm_jax.training import seal

  return values.workdir is not None and bool(seal.steps(pathlib.Path(values.workdir) / "checkpoints"))


def on_these_devices(config: Any) -> Any:
  """The config with a mesh chosen for the devices that are here, where it leaves that to the planner."""
  from llm_jax.core.config import plain

  if not (plain(config).get("mesh") or {}).get("auto"):
    return config
  import jax

  from llm_jax import plan, plan_auto
  from llm_jax.planning import hardware

  _, vocab_size = plan.without_tokenizer(config, None)
  chip = hardware.of_device(jax.devices()[0].device_kind)
  return plan_auto.settled(plain(config), vocab_size, chip, jax.device_count(), jax.process_count())


def suggested_rate(workdir: pathlib.Path) -> str:
  """What a learning-rate range test says, read from its metrics up to the first update that the guard skipped: from
  there on the rates do not rise."""
  from llm_jax.optimizers import range_test
  from llm_jax.training import metrics

  rows = itertools.takewhile(lambda r: not r["train/skipped_updates"],
                             (r for r in metrics.rows(workdir) if "train/loss" in r))
  found = range_test.analyse([(r["train/learning_rate"], r["train/loss"]) for r in rows])
  return (f"learning-rate range test: --config.optimizer.peak={found.suggested:.2g} (steepest fall at "
          f"{found.steepest:.2g}, lowest loss at {found.minimum:.2g})")


if __name__ == "__main__":
  doors.run(main, define)
