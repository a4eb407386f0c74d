"""What every door (`python -m llm_jax.train`, evaluate, generate, ...) does before and after its own work.

Reads `--config=FILE[:arg] --config.key=value --workdir=DIR` and the door's absl flags, sets up the process before jax
is imported, and turns an error the user can act on into a few lines and an exit code. Anything left over on the command
line is an error: `config.lr=1` without its dashes is never ignored.
"""

import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from llm_jax.core import allocator
from llm_jax.core.errors import ConfigError, LlmJaxError, RestartError, nearest_name
from llm_jax.parallel import cluster

Overrides = list[tuple[str, str]]


def run(main: Callable[[Any, Overrides], int | None], define: Callable[[flags.FlagValues], None],
        argv: Sequence[str] | None = None) -> None:
  """Parses the command line, runs `main(flag values, config overrides)`, and exits with its code.

  A LlmJaxError is printed without a traceback and gives its own exit code; other exceptions are bugs and are raised.
  One of several processes does not wait for the others when it fails: they are stuck without it, and end by themselves.
  """
  several = False
  if argv is None:  # this process is that of the door alone
    allocator.restart()
  try:
    values, overrides = parse(list(sys.argv if argv is None else argv), define)
    prepare_process(values)
    several = join_others(values)
    code = main(values, overrides)
  except LlmJaxError as e:
    print(f"error: {e}", file=sys.stderr)
    code = e.exit_code
  except BrokenPipeError:
    code = 0
  except Exception as e:
    absent = cluster.absent_platform(e)
    if absent is None and not several:
      raise
    if absent is None:
      traceback.print_exc()
    else:
      print(f"error: {absent}", file=sys.stderr)
    code = absent.exit_code if absent else cluster.SURVIVOR if cluster.lost_another(e) else 1
  sys.stdout.flush()
  code = code or 0
  if several and code not in (0, RestartError.exit_code):  # those stop in good order, all together
    sys.stderr.flush()
    os._exit(code)
  sys.exit(code)


def parse(argv: list[str], define: Callable[[flags.FlagValues], None]) -> tuple[flags.FlagValues, Overrides]:
  """-> (absl flag values, [(config path, text)] in order).

  Raises:
    ConfigError: an unknown flag, a bad value, an empty text, a second config, or anything that is not a flag.
  """
  values = flags.FlagValues()
  flags.DEFINE_integer("fake_devices", 0, "Pretend that the CPU is this many devices.", lower_bound=0,
                       flag_values=values)
  flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where no launcher says it.", flag_values=values)
  flags.DEFINE_integer("processes", None, "How many processes share the run.", flag_values=values)
  flags.DEFINE_integer("process", None, "Which of them this is, from 0.", flag_values=values)
  flags.DEFINE_bool("help", False, "Print the flags of this door.", short_name="h", flag_values=values)
  define(values)
  overrides, rest = split_overrides(argv[1:])
  try:
    left = values([argv[0], *rest])[1:]
  except flags.UnrecognizedFlagError as e:
    raise ConfigError(f"--{e.flagname}", "unknown flag", nearest=_nearest_flag(e.flagname, values),
                      accepted=", ".join(f"--{n}" for n in _names(values))) from None
  except flags.Error as e:
    raise ConfigError("command line", str(e)) from None
  if values.help:
    print(values.main_module_help() or values.get_help())
    raise SystemExit(0)
  if left:
    raise ConfigError("command line", f"{left[0]!r} is not a flag", nearest=_with_dashes(left[0], values),
                      accepted="flags begin with --")
  check_texts(values)
  return values, overrides


def check_texts(values: flags.FlagValues) -> None:
  """Raises ConfigError for a flag of one text, a file or a folder as a rule, that is empty, and for a second config,
  which is not added to the first. Of other flags the last one counts: launchers append theirs."""
  for name in _names(values):
    flag = values[name]
    if flag.flag_type() != "string":
      continue
    if flag.present > 1 and name == "config":
      raise ConfigError(f"--{name}", f"given {flag.present} times, at last as {flag.value!r}", accepted=f"one --{name}")
    if flag.value == "" and flag.default != "":
      raise ConfigError(f"--{name}", "got ''", accepted=flag.help)


def split_overrides(arguments: Sequence[str]) -> tuple[Overrides, list[str]]:
  """Takes `--config.a.b=value`, `--config.a.b value` and `--noconfig.a.b` out of the arguments."""
  overrides: Overrides = []
  rest: list[str] = []
  queue = list(arguments)
  while queue:
    argument = queue.pop(0)
    off = re.fullmatch(r"--?noconfig\.([\w.]+)", argument)
    match = re.fullmatch(r"--?config\.([^=]+)(?:=(.*))?", argument, re.DOTALL)
    if off:
      overrides.append((off.group(1), "False"))
    elif match and match.group(2) is not None:
      overrides.append((match.group(1), match.group(2)))
    elif match and queue and not queue[0].startswith("--"):
      overrides.append((match.group(1), queue.pop(0)))
    elif match:
      raise ConfigError(f"--config.{match.group(1)}", "no value given", accepted=f"--config.{match.group(1)}=VALUE")
    else:
      rest.append(argument)
  return overrides, rest


def _names(values: flags.FlagValues) -> list[str]:
  return sorted({name for name in values if len(name) > 1 and "?" not in name})


def _nearest_flag(name: str, values: flags.FlagValues) -> str | None:
  near = nearest_name(name, [*_names(values), "config"])
  return None if near is None else f"--{near}"


def _with_dashes(argument: str, values: flags.FlagValues) -> str | None:
  """The flag, or the nearest to it, that an argument without dashes was meant to be; None if there is none."""
  name, equals, text = argument.partition("=")
  if not name.startswith("config."):
    return f"--{argument}" if equals and name in [*_names(values), "config"] else None
  from llm_jax import experiment
  from llm_jax.core import config as configs

  try:
    configs.override({}, name.removeprefix("config."), text, experiment.SCHEMA)
  except ConfigError as e:
    return f"--{e.nearest}{equals}{text}" if e.nearest else None
  return f"--{argument}"


def prepare_process(values: flags.FlagValues) -> None:
  """What must be set before jax is imported: the number of pretended devices."""
  if values.fake_devices:
    kept = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
    os.environ["XLA_FLAGS"] = f"{kept} --xla_force_host_platform_device_count={values.fake_devices}".strip()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def join_others(values: flags.FlagValues) -> bool:
  """Joins the other processes of this run, if there are any -> whether there are."""
  found = cluster.find(os.environ, values.coordinator, values.processes, values.process)
  if found is not None:
    cluster.join(found)
  return found is not None


def read_config(flag: str | None, workdir: str | None, overrides: Overrides, schema: Any) -> dict[str, Any]:
  """The config of `--config`, or the one saved in the workdir, with the overrides applied.

  Raises:
    ConfigError: neither is there, or an override is wrong.
  """
  from llm_jax.core import config as configs
  from llm_jax.training.workdir import saved_config

  if flag is not None:
    config = configs.load_file(flag)
  else:
    saved = None if workdir is None else saved_config(pathlib.Path(workdir))
    if saved is None:
      raise ConfigError("--config", "required but not given", accepted="FILE.py or FILE.py:argument, or a --workdir "
                        "that holds a run")
    config = saved
  configs.override_all(config, overrides, schema)
  return config
