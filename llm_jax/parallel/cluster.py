"""Several processes as one run: which cluster is this, who am I in it, and joining the others.

Every launcher tells its processes in its own environment variables. `find` reads those of this package's own launchers
and flags, SLURM, Open MPI and GKE; `join` calls JAX's one door with short deadlines, so that a process that died is
noticed in seconds and not in minutes. On a TPU slice JAX finds the others itself.
"""

import dataclasses
import os
import re
import traceback
from collections.abc import Mapping
from typing import Any

from llm_jax.core.errors import ConfigError, shorten

HEARTBEAT_SECONDS = 20  # a silent process is taken for dead after so long, and the others abort
SHUTDOWN_SECONDS = 30  # how long a process waits for the others at its end
SURVIVOR = 134  # exit code of a process that ends because another one is gone, as jax's own abort gives it
LOST = r"(?i)connection (closed|reset) by peer|gloo .* failed|coordination service|heartbeat"
START_SECONDS = 300  # how long the first waits for the last
DEFAULT_PORT = 8476


@dataclasses.dataclass(frozen=True)
class Cluster:
  """kind: how it was found; coordinator: HOST:PORT of process 0; processes: how many; process: which is this one;
  local: its number on its host where each process has one accelerator, else None. A 'tpu' cluster knows no more."""

  kind: str
  coordinator: str | None = None
  processes: int | None = None
  process: int | None = None
  local: int | None = None


def find(environment: Mapping[str, str], coordinator: str | None = None, processes: int | None = None,
         process: int | None = None) -> Cluster | None:
  """The cluster that flags or the environment describe; None for a single process.

  Raises:
    ConfigError: only some of the flags, or numbers that cannot be.
  """
  given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
  if any(v is not None for v in given.values()):
    if missing := [k for k, v in given.items() if v is None]:
      raise ConfigError(missing[0], "required but not given", accepted="--coordinator, --processes and --process")
    return _checked(Cluster("flags", coordinator, processes, process))
  for look in (_ours, _gke, _slurm, _open_mpi):
    found = look(environment)
    if found is not None:
      return found if found.processes is None else _checked(found) if found.processes > 1 else None
  return None


def _checked(found: Cluster) -> Cluster:
  if found.processes is None or found.process is None or not 0 <= found.process < found.processes:
    raise ConfigError("--process", f"got {found.process} of {found.processes}", accepted="0 up to --processes - 1")
  port = re.fullmatch(r".+:(\d{1,5})", found.coordinator or "")
  if port is None or not 0 < int(port.group(1)) < 2**16:
    raise ConfigError("--coordinator", f"got {found.coordinator!r}",
                      accepted="HOST:PORT of process 0, a port from 1 to 65535")
  return found


def _ours(e: Mapping[str, str]) -> Cluster | None:
  if e.get("LLM_JAX_CLUSTER") == "tpu":
    return Cluster("tpu")
  if "LLM_JAX_COORDINATOR" not in e:
    return None
  return Cluster("launcher", e["LLM_JAX_COORDINATOR"], _number(e, "LLM_JAX_PROCESSES"), _number(e, "LLM_JAX_PROCESS"))


def _gke(e: Mapping[str, str]) -> Cluster | None:
  """GKE names the hosts of a TPU slice, and of several slices the first ('megascale')."""
  hosts = [h for h in e.get("TPU_WORKER_HOSTNAMES", "").split(",") if h]
  if "MEGASCALE_COORDINATOR_ADDRESS" in e or (len(hosts) > 1 and "TPU_WORKER_ID" in e):
    return Cluster("tpu")
  return None


def _slurm(e: Mapping[str, str]) -> Cluster | None:
  if "SLURM_PROCID" not in e or "SLURM_STEP_NUM_TASKS" not in e:
    return None
  first = first_host(e.get("SLURM_STEP_NODELIST") or e.get("SLURM_JOB_NODELIST") or "localhost")
  port = 61_440 + _number(e, "SLURM_JOB_ID") % 4_096  # of its own for each job on a node
  tasks = _number(e, "SLURM_STEP_NUM_TASKS")
  per_node = _number(e, "SLURM_STEP_TASKS_PER_NODE", 1)
  return Cluster("slurm", f"{first}:{port}", tasks, _number(e, "SLURM_PROCID"),
                 _number(e, "SLURM_LOCALID", 0) if per_node > 1 else None)


def _open_mpi(e: Mapping[str, str]) -> Cluster | None:
  if "OMPI_COMM_WORLD_RANK" not in e:
    return None
  address = re.search(r"tcp://([^,:;]+)", e.get("OMPI_MCA_orte_hnp_uri", ""))
  host = address.group(1) if address else e.get("LLM_JAX_COORDINATOR_HOST", "localhost")
  per_node = _number(e, "OMPI_COMM_WORLD_LOCAL_SIZE", 1)
  return Cluster("open_mpi", f"{host}:{DEFAULT_PORT}", _number(e, "OMPI_COMM_WORLD_SIZE"),
                 _number(e, "OMPI_COMM_WORLD_RANK"),
                 _number(e, "OMPI_COMM_WORLD_LOCAL_RANK", 0) if per_node > 1 else None)


def first_host(nodes: str) -> str:
  """The first of SLURM's compressed list of hosts: 'n[001-3,7],m' is 'n001'."""
  found = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", nodes)
  return "localhost" if found is None else found.group(1) + (found.group(2) or "")


def _number(e: Mapping[str, str], name: str, default: int | None = None) -> int:
  text = re.match(r"\d+", e.get(name, ""))
  if text is None and default is None:
    raise ConfigError(name, f"got {e.get(name)!r}", accepted="a whole number, set by the launcher")
  return int(text.group()) if text else int(default or 0)


def join(cluster: Cluster) -> None:
  """Waits for all processes and makes their devices one set.

  Raises:
    ConfigError: a deadline that is none, or they did not all come.
  """
  import jax

  deadlines: dict[str, Any] = dict(heartbeat_timeout_seconds=_seconds("HEARTBEAT", HEARTBEAT_SECONDS),
                   shutdown_timeout_seconds=_seconds("SHUTDOWN", SHUTDOWN_SECONDS),
                   initialization_timeout=_seconds("START", START_SECONDS))
  local = None if cluster.local is None else [cluster.local]
  try:
    jax.distributed.initialize(cluster.coordinator, cluster.processes, cluster.process, local, **deadlines)
  except (RuntimeError, ValueError) as e:
    raise ConfigError("cluster", f"{cluster.kind}: process {cluster.process} of {cluster.processes} could not join "
                      f"at {cluster.coordinator}: {str(e).splitlines()[0]}",
                      accepted="all processes started together, and a port that they can reach") from None


def lost_another(error: Exception) -> bool:
  """Whether this process failed only because another one is gone in the middle of a collective."""
  import jax

  return isinstance(error, jax.errors.JaxRuntimeError) and re.search(LOST, str(error)) is not None


def absent_platform(error: Exception) -> ConfigError | None:
  """What to tell where jax does not find the platform that JAX_PLATFORMS asks for; None for any other error."""
  if isinstance(error, RuntimeError) and re.match(r"Unable to initialize backend|Unknown backend", str(error)):
    reason = shorten(str(error).splitlines()[0].partition(" (set JAX_PLATFORMS")[0])
  elif isinstance(error, AssertionError) and traceback.extract_tb(error.__traceback__)[-1].name == "backends":
    reason = "jax has no such backend here"  # it asserts that one of those asked for was there
  else:
    return None
  return ConfigError("JAX_PLATFORMS", f"got {os.environ.get('JAX_PLATFORMS')!r}: {reason}",
                     accepted="a platform that is here, such as cpu; without it jax chooses")


def _seconds(name: str, default: int) -> int:
  """A deadline, which LLM_JAX_<NAME>_SECONDS may change.

  Raises:
    ConfigError: that is no number of seconds.
  """
  variable = f"LLM_JAX_{name}_SECONDS"
  text = os.environ.get(variable, str(default))
  if not re.fullmatch(r"\d{1,9}", text) or not int(text):
    raise ConfigError(variable, f"got {text!r}", accepted="a whole number of seconds from 1")
  return int(text)
