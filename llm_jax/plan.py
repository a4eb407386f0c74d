"""Door: look at a plan before anything runs: every schedule of a config on one axis, without data or devices.

    python -m llm_jax.plan --schedule --config=configs/curriculum_length.py:warmup --out=schedule.svg
"""

import pathlib
from typing import Any

from absl import flags

from llm_jax import doors
from llm_jax.core.errors import ConfigError


def define(values: flags.FlagValues) -> None:
  """The flags of this door."""
  flags.DEFINE_string("config", None, "FILE.py or FILE.py:argument; then --config.key=value.", flag_values=values)
  flags.DEFINE_string("workdir", None, "Folder of a run, instead of --config.", flag_values=values)
  flags.DEFINE_bool("schedule", False, "Plot competence, length, batch, mixture, knobs and learning rate over steps.",
                    flag_values=values)
  flags.DEFINE_string("out", None, "File of the plot, .svg or .png; without it the schedules are printed.",
                      flag_values=values)


def main(values: Any, overrides: doors.Overrides) -> int:
  """Reads the config and prints or plots its schedules."""
  from llm_jax import experiment

  if not values.schedule:
    raise ConfigError("--schedule", "nothing else can be planned without a run", accepted="--schedule")
  config = doors.read_config(values.config, values.workdir, overrides, experiment.SCHEMA)
  found = schedules(config)
  if values.out is None:
    from llm_jax.dry_run import schedule_lines

    print(schedule_lines(found))
    return 0
  from llm_jax.training import schedule_figure

  path = pathlib.Path(values.out)
  if path.suffix not in (".svg", ".png"):
    raise ConfigError("--out", f"got {values.out!r}", accepted="a file that ends in .svg or .png")
  path.parent.mkdir(parents=True, exist_ok=True)
  schedule_figure.draw(found).savefig(path)
  print(path)
  return 0


def schedules(config: Any) -> dict[str, Any]:
  """The planned series of a config: {name: {'step': [...], 'value': [...], 'unit': ...}}; reads no data.

  Raises:
    ConfigError: a config that cannot be run.
  """
  from llm_jax import experiment
  from llm_jax.core.config import plain, resolve
  from llm_jax.optimizers.schedules import schedule
  from llm_jax.training import planned, settings

  resolved = resolve(plain(config), experiment.SCHEMA)
  train, optimizer = settings.train(**resolved["train"]), resolved["optimizer"]
  knobs = {name: optimizer[name] for name in ("peak", "warmup", "decay", "end", "cooldown", "cooldown_shape")}
  rate = schedule(total=optimizer["horizon"] or train.steps, **knobs)
  return planned.planned(train.steps, rate, experiment.make_curriculum(resolved["curriculum"], train))


if __name__ == "__main__":
  doors.run(main, define)
