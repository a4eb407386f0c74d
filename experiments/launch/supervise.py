"""Starts a run again when it asks for it or a machine failed it, and stops when that makes no progress.

    python -m experiments.launch.supervise --workdir=runs/gpt2 -- --config=configs/gpt2.py:124m
    python -m experiments.launch.supervise --workdir=/tmp/gpt2 --processes=2 -- --config=configs/gpt2.py:debug

A run is started again on exit code 75 (preempted, or the watchdog ended it) and on the signals by which machines and
kernels end processes (134 abort, 137 kill, 139 segmentation fault, 143 terminate); the pauses double from 1 to 60
seconds. After three starts without a newer good checkpoint it gives up and says so. Every other exit code is final: 2
config, 3 data, 4 no usable checkpoint, others a bug. A signal to the supervisor goes on to the run and ends both.
"""

import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from experiments.launch import command, local

RESTARTED = {75: "asked to be started again", 134: "aborted", 137: "was killed", 139: "crashed", 143: "was terminated"}
LONGEST_PAUSE = 60.0
WITHOUT_PROGRESS = 3


def supervise(start: Callable[[], int], newest: Callable[[], int | None],
              pause: Callable[[float], None] = time.sleep, say: Callable[[str], None] = print) -> int:
  """Calls `start` until it returns something final -> that exit code.

  Args:
    start: runs to the end -> exit code.
    newest: step of the newest good checkpoint, None if there is none.
    pause: sleeps so many seconds.
    say: tells what happens.
  """
  best, without = newest(), 0
  while True:
    code = start()
    if code not in RESTARTED:
      return code
    now = newest()
    without = 0 if now is not None and (best is None or now > best) else without + 1
    best = now if now is not None else best
    where = "no checkpoint yet" if now is None else f"checkpoint {now}"
    if without >= WITHOUT_PROGRESS:
      say(f"supervisor: the run {RESTARTED[code]} (exit code {code}); {without} starts brought no newer checkpoint "
          f"({where}): giving up")
      return code
    seconds = min(2.0 ** without, LONGEST_PAUSE)
    say(f"supervisor: the run {RESTARTED[code]} (exit code {code}); {where}; starting again in {seconds:.0f} s")
    pause(seconds)


def main(argv: Sequence[str]) -> int:
  """Supervises a run of one process, or of several on this machine."""
  own, arguments = command.split(argv)
  flags = command.parser(__doc__)
  flags.add_argument("--workdir", required=True, help="of the run: where its checkpoints are looked for")
  flags.add_argument("--processes", type=command.count, default=1, help="more than 1: as experiments.launch.local")
  flags.add_argument("--fake_devices", type=command.count, default=None, help="of each process")
  values = flags.parse_args(own)
  run = command.train([*arguments, f"--workdir={values.workdir}"], sys.executable)
  if values.processes > 1 or values.fake_devices:
    fake = [] if values.fake_devices is None else [f"--fake_devices={values.fake_devices}"]
    run = [sys.executable, "-m", "experiments.launch.local", f"--processes={values.processes}", *fake, "--", *run[3:]]
  if values.show:
    print(command.text(["python", *run[1:]]))
    return 0
  return supervise(lambda: _once(run), lambda: newest(pathlib.Path(values.workdir)),
                   say=lambda line: print(line, flush=True))


def newest(workdir: pathlib.Path) -> int | None:
  """Step of the newest checkpoint that is sealed, by its sizes."""
  from llm_jax.training.good_steps import newest_good

  folder = workdir / "checkpoints"
  return newest_good(folder, set_aside=False) if folder.is_dir() else None


def _once(run: Sequence[str]) -> int:
  process = subprocess.Popen(list(run), start_new_session=True)  # a Ctrl-C comes once, through the supervisor
  told: list[int] = []

  def forward(number: int, frame: object) -> None:
    told.append(number)
    process.send_signal(number)
  before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    code = local.exit_code(process.wait())
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  if told:  # whoever ends the supervisor wants the run to end too
    raise SystemExit(code)
  return code


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
