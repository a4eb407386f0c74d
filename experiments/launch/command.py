"""What all launchers share: reading `[flags] -- train arguments`, showing or running a command."""

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence


def parser(description: str | None) -> argparse.ArgumentParser:
  """With the flag that all launchers have."""
  made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
  made.add_argument("--print", action="store_true", dest="show", help="show what would run, run nothing")
  return made


def count(text: str) -> int:
  """A flag's whole number from 1."""
  if not text.isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(f"got {text!r}; accepted: a whole number from 1")
  return int(text)


def chips(text: str) -> str:
  """A flag's shape of a TPU slice."""
  if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", text):
    raise argparse.ArgumentTypeError(f"got {text!r}; accepted: chips along each axis, as 2x4 or 4x4x4")
  return text


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """(the launcher's own flags, what follows '--'); exits with 2 if nothing does."""
  argv = list(argv)
  at = argv.index("--") if "--" in argv else len(argv)
  if not argv[at + 1:] and not {"-h", "--help"} & set(argv):
    print("error: nothing to run: put the arguments of the run behind --", file=sys.stderr)
    raise SystemExit(2)
  return argv[:at], argv[at + 1:]


def train(arguments: Sequence[str], python: str = "python") -> list[str]:
  """The training door with these arguments."""
  return [python, "-m", "llm_jax.train", *arguments]


def text(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
  """As one would type it."""
  return " ".join([*(f"{k}={shlex.quote(v)}" for k, v in (environment or {}).items()), shlex.join(command)])


def run(command: Sequence[str], show: bool, given: str | None = None) -> int:
  """Shows the command or runs it, with `given` as its input -> its exit code."""
  if show:
    print(text(command) + ("" if given is None else f" <<'END'\n{given}\nEND"))
    return 0
  return subprocess.run(list(command), input=given, text=True, check=False).returncode


def document(content: Mapping) -> str:
  """A manifest as JSON, which every reader of YAML takes."""
  return json.dumps(content, indent=2)
