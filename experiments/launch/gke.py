"""A run on TPU slices of a Kubernetes cluster (GKE) as a JobSet.

    python -m experiments.launch.gke --print --name=llama --image=IMAGE --topology=4x4x4 -- \\
        --config=configs/decoder.py:llama3-8b --workdir=/mnt/bucket/llama

The manifest is JSON, which kubectl takes as YAML. Exit codes that no start will mend fail the whole job at once; a
preempted or killed one is started again from its newest good checkpoint.
"""

import math
import sys
from collections.abc import Sequence
from typing import Any

from experiments.launch import command

FINAL = [1, 2, 3, 4]  # bug, config, data, no usable checkpoint
CHIPS_PER_HOST = 4


def manifest(name: str, image: str, accelerator: str, topology: str, slices: int, arguments: Sequence[str],
             restarts: int) -> dict[str, Any]:
  """The JobSet: one job for each slice, one pod for each of its hosts."""
  hosts = max(1, math.prod(int(n) for n in topology.split("x")) // CHIPS_PER_HOST)
  container = {"name": "train", "image": image, "command": command.train(arguments),
               "resources": {"limits": {"google.com/tpu": CHIPS_PER_HOST}},
               "ports": [{"containerPort": 8471}, {"containerPort": 8080}]}
  pod = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 120, "containers": [container],
         "nodeSelector": {"cloud.google.com/gke-tpu-accelerator": accelerator,
                          "cloud.google.com/gke-tpu-topology": topology}}
  rules = [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": FINAL}}]
  job = {"parallelism": hosts, "completions": hosts, "backoffLimit": 0, "completionMode": "Indexed",
         "podFailurePolicy": {"rules": rules}, "template": {"spec": pod}}
  return {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet",
          "metadata": {"name": name,
                       "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}},
          "spec": {"failurePolicy": {"maxRestarts": restarts},
                   "replicatedJobs": [{"name": "slice", "replicas": slices, "template": {"spec": job}}]}}


def main(argv: Sequence[str]) -> int:
  """Makes the manifest and hands it to kubectl."""
  own, arguments = command.split(argv)
  flags = command.parser(__doc__)
  flags.add_argument("--name", required=True)
  flags.add_argument("--image", required=True, help="a container image with this repository installed")
  flags.add_argument("--accelerator", default="tpu-v5p-slice", help="GKE's name of the chip")
  flags.add_argument("--topology", type=command.chips, required=True, help="of one slice, e.g. 4x4x4")
  flags.add_argument("--slices", type=command.count, default=1)
  flags.add_argument("--restarts", type=int, default=100)
  v = flags.parse_args(own)
  made = manifest(v.name, v.image, v.accelerator, v.topology, v.slices, arguments, v.restarts)
  return command.run(["kubectl", "apply", "-f", "-"], v.show, command.document(made))


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
