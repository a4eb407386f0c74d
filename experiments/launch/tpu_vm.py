"""A run on every host of a Cloud TPU slice, through gcloud.

    python -m experiments.launch.tpu_vm --print --name=my-pod --zone=us-east5-a -- \\
        --config=configs/decoder.py:llama3-8b --workdir=/mnt/bucket/llama

The repository is at --folder on every host (gcloud compute tpus tpu-vm scp --worker=all, or a mounted disk); there the
supervisor's rules are a shell loop, because each host has only its own process.
"""

import shlex
import sys
from collections.abc import Sequence

from experiments.launch import command
from experiments.launch.supervise import RESTARTED


def remote(arguments: Sequence[str], folder: str) -> str:
  """What each host runs: the door, again while its exit code asks for it."""
  again = "|".join(map(str, RESTARTED))
  run = command.text(command.train(arguments), {"LLM_JAX_CLUSTER": "tpu"})
  return (f"cd {shlex.quote(folder)} && for attempt in $(seq 100); do {run}; code=$?; "
          f"case $code in {again}) sleep 10;; *) exit $code;; esac; done; exit $code")


def main(argv: Sequence[str]) -> int:
  """Runs it on all workers at once."""
  own, arguments = command.split(argv)
  flags = command.parser(__doc__)
  flags.add_argument("--name", required=True, help="of the TPU")
  flags.add_argument("--zone", required=True)
  flags.add_argument("--project", default=None)
  flags.add_argument("--folder", default="llm_jax", help="the repository on the hosts")
  v = flags.parse_args(own)
  project = [f"--project={v.project}"] if v.project else []
  return command.run(["gcloud", "compute", "tpus", "tpu-vm", "ssh", v.name, f"--zone={v.zone}", *project,
                      "--worker=all", f"--command={remote(arguments, v.folder)}"], v.show)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
