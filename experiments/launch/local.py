"""A run of several processes on this machine, as on so many hosts.

    python -m experiments.launch.local --processes=2 -- --config=configs/gpt2.py:debug --workdir=/tmp/gpt2
    python -m experiments.launch.local --processes=2 --fake_devices=4 --print -- --config=configs/gpt2.py:debug

Every line is shown with the number of its process. When one fails the others get a little time to end by themselves,
and the failure that came first is shown again, last on the screen, with its exit code.
"""

import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from experiments.launch import command
from llm_jax.parallel import cluster

GRACE = 30.0  # seconds between the first failure and the end of the others
SHOWN = 40  # last lines of the failure that came first


@dataclasses.dataclass
class Member:
  """One process, the last lines that it wrote, and when it was seen to have ended."""

  number: int
  process: subprocess.Popen
  lines: list[str] = dataclasses.field(default_factory=list)
  reader: threading.Thread | None = None
  ended: float | None = None


def environment(number: int, processes: int, port: int, fake_devices: int | None) -> dict[str, str]:
  """What tells a process who it is (llm_jax/parallel/cluster.py reads it)."""
  said = {"LLM_JAX_COORDINATOR": f"127.0.0.1:{port}", "LLM_JAX_PROCESSES": str(processes),
          "LLM_JAX_PROCESS": str(number)}
  if fake_devices:
    kept = [f for f in os.environ.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in f]
    flags = " ".join([*kept, f"--xla_force_host_platform_device_count={fake_devices}"])
    said |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
  return said


def free_port() -> int:
  """A port that nobody listens on."""
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    return found.getsockname()[1]


def start(number: int, arguments: Sequence[str], said: Mapping[str, str]) -> Member:
  """Starts one process; its lines go to the screen as they come."""
  process = subprocess.Popen(command.train(arguments, sys.executable), env={**os.environ, **said}, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
                             start_new_session=True)  # a Ctrl-C comes once, through the launcher
  member = Member(number, process)

  def read() -> None:
    for line in process.stdout or ():
      print(f"[{number}] {line}", end="", flush=True)
      member.lines = [*member.lines[-SHOWN:], line]
  member.reader = threading.Thread(target=read, daemon=True)
  member.reader.start()
  return member


def wait(members: Sequence[Member], grace: float = GRACE) -> int:
  """Until all have ended -> 0, or the exit code of the first that failed of itself, not for want of another."""
  first: Member | None = None
  stopped: list[Member] = []
  while any(m.ended is None for m in members):
    for member in members:
      if member.ended is None and member.process.poll() is not None:
        member.ended = time.monotonic()
        if member.process.returncode and first is None:
          first = member
    if first is not None and time.monotonic() - (first.ended or 0) > grace:
      for member in members:
        if member.process.poll() is None:
          member.process.kill()
          stopped.append(member)
    time.sleep(0.05)
  for member in members:
    if member.reader is not None:
      member.reader.join(timeout=5)
  if first is None:
    return 0
  failed = sorted((m for m in members if m.process.returncode and m not in stopped), key=lambda m: m.ended or 0)
  first = next((m for m in failed if exit_code(m.process.returncode) != cluster.SURVIVOR), first)
  code = exit_code(first.process.returncode)
  print(f"\nprocess {first.number} ended first, with exit code {code}:\n{''.join(first.lines)}", file=sys.stderr,
        flush=True)
  return code


def exit_code(returncode: int) -> int:
  """As a shell says it: 128 + the signal's number for a process that a signal ended."""
  return 128 - returncode if returncode < 0 else returncode


def main(argv: Sequence[str]) -> int:
  """Starts, waits, ends with the first failure's exit code; a signal goes to process 0, which tells the others."""
  own, arguments = command.split(argv)
  flags = command.parser(__doc__)
  flags.add_argument("--processes", type=command.count, required=True, help="how many")
  flags.add_argument("--fake_devices", type=command.count, default=None, help="so many CPU devices pretended for each")
  flags.add_argument("--grace", type=float, default=GRACE, help="seconds that the others have after a failure")
  values = flags.parse_args(own)
  port = free_port()
  said = [environment(i, values.processes, port, values.fake_devices) for i in range(values.processes)]
  if values.show:
    print("\n".join(f"{command.text(command.train(arguments), s)} &" for s in said))
    return 0
  members = [start(i, arguments, s) for i, s in enumerate(said)]
  _forward_signals(members)
  return wait(members, values.grace)


def _forward_signals(members: Sequence[Member]) -> None:
  import signal

  def forward(number: int, frame: object) -> None:
    if members[0].process.poll() is None:
      members[0].process.send_signal(number)
  if threading.current_thread() is threading.main_thread():
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, forward)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
