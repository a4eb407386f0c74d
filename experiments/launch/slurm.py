"""A run as a SLURM job, one task for each accelerator or node; preempted, it puts itself back into the queue.

    python -m experiments.launch.slurm --print --nodes=4 --tasks_per_node=8 --time=12:00:00 -- \\
        --config=configs/decoder.py:llama3-8b --workdir=/shared/runs/llama
"""

import shlex
import sys
from collections.abc import Sequence

from experiments.launch import command

SCRIPT = """#!/bin/bash
{options}

# Processes find each other by SLURM's own variables. Exit code 75 asks to be started again: the job goes back into the
# queue, and the same command resumes from the newest good checkpoint.
srun --kill-on-bad-exit=1 {run}
code=$?
if [ $code -eq 75 ] || [ $code -eq 134 ] || [ $code -eq 137 ] || [ $code -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
"""


def script(arguments: Sequence[str], options: dict[str, str]) -> str:
  """The batch script of a run."""
  lines = [f"#SBATCH --{name}={value}" if value else f"#SBATCH --{name}" for name, value in options.items()]
  return SCRIPT.format(options="\n".join(lines), run=shlex.join(command.train(arguments)))


def main(argv: Sequence[str]) -> int:
  """Writes the script and hands it to sbatch."""
  own, arguments = command.split(argv)
  flags = command.parser(__doc__)
  flags.add_argument("--nodes", type=command.count, default=1)
  flags.add_argument("--tasks_per_node", type=command.count, default=1, help="one process for each accelerator")
  flags.add_argument("--gpus_per_task", type=int, default=1)
  flags.add_argument("--time", default="24:00:00", help="HH:MM:SS")
  flags.add_argument("--partition", default="")
  flags.add_argument("--name", default="llm_jax")
  flags.add_argument("--grace", type=int, default=120, help="seconds before the end at which the run saves and stops")
  v = flags.parse_args(own)
  partition = {"partition": v.partition} if v.partition else {}
  options = {"job-name": v.name, "nodes": str(v.nodes), "ntasks-per-node": str(v.tasks_per_node),
             "gpus-per-task": str(v.gpus_per_task), "time": v.time, **partition,
             "signal": f"TERM@{v.grace}", "requeue": "", "open-mode": "append"}
  return command.run(["sbatch"], v.show, script(arguments, options))


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
