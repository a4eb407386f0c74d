"""Launchers: who am I in which cluster, what they would run, when the supervisor starts a run again."""

import json
import sys

import pytest

from experiments.launch import gke, local, slurm, supervise, tpu_vm
from llm_jax.core.errors import ConfigError
from llm_jax.parallel import cluster

RUN = ["--", "--config=configs/gpt2.py:124m", "--workdir=gs://b/my run"]


@pytest.mark.parametrize("environment, expected", [
    ({}, None),
    ({"LLM_JAX_COORDINATOR": "h:1", "LLM_JAX_PROCESSES": "4", "LLM_JAX_PROCESS": "3"},
     cluster.Cluster("launcher", "h:1", 4, 3)),
    ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NODELIST": "gpu[007-008],big", "SLURM_JOB_ID": "7",
      "SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_LOCALID": "5"},
     cluster.Cluster("slurm", "gpu007:61447", 16, 5, 5)),
    ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_JOB_ID": "7"}, None),
    ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
      "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"},
     cluster.Cluster("open_mpi", "10.96.0.1:8476", 2, 1, 1)),
    ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, cluster.Cluster("tpu")),
    ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
    ({"MEGASCALE_COORDINATOR_ADDRESS": "a:1"}, cluster.Cluster("tpu")),
    ({"LLM_JAX_CLUSTER": "tpu"}, cluster.Cluster("tpu"))], ids=str)
def test_who_am_i(environment, expected):
  assert cluster.find(environment) == expected


def test_flags_come_first_and_are_complete():
  assert cluster.find({"LLM_JAX_CLUSTER": "tpu"}, "h:2", 2, 0) == cluster.Cluster("flags", "h:2", 2, 0)
  for wrong in ((None, 2, 0), ("h:2", 2, 2), ("h", 2, 0), ("h:2", None, 0), ("h:0", 2, 0), ("h:65536", 2, 0)):
    with pytest.raises(ConfigError):
      cluster.find({}, *wrong)
  with pytest.raises(ConfigError, match="LLM_JAX_PROCESS"):
    cluster.find({"LLM_JAX_COORDINATOR": "h:1", "LLM_JAX_PROCESSES": "two", "LLM_JAX_PROCESS": "0"})


@pytest.mark.parametrize("text", ["abc", "", "0", "-1", "1.5"])
def test_a_deadline_that_is_none_is_refused(text, monkeypatch):
  monkeypatch.setenv("LLM_JAX_HEARTBEAT_SECONDS", text)
  with pytest.raises(ConfigError, match="LLM_JAX_HEARTBEAT_SECONDS"):
    cluster.join(cluster.Cluster("flags", "localhost:1", 2, 1))


@pytest.mark.parametrize("nodes, first", [
    ("n1", "n1"), ("n[001-3,7],m", "n001"), ("a-b[12,14]", "a-b12"), ("x,y", "x")])
def test_first_host(nodes, first):
  assert cluster.first_host(nodes) == first


@pytest.mark.parametrize("launcher, flags, wrong", [
    (local, ["--processes=0"], "--processes"), (supervise, ["--workdir=w", "--processes=-1"], "--processes"),
    (slurm, ["--nodes=two"], "--nodes"),
    (gke, ["--name=n", "--image=i", "--topology=4xx4"], "--topology")], ids=lambda v: getattr(v, "__name__", None))
def test_what_cannot_be_is_refused(launcher, flags, wrong, capsys):
  with pytest.raises(SystemExit) as stop:
    launcher.main(["--print", *flags, *RUN])
  assert stop.value.code == 2
  said = capsys.readouterr().err
  assert wrong in said and "accepted" in said


def test_local_shows_one_command_for_each_process(capsys):
  assert local.main(["--processes=2", "--fake_devices=4", "--print", *RUN]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 2 and all("'--workdir=gs://b/my run'" in line for line in lines)
  assert "LLM_JAX_PROCESS=1" in lines[1] and "device_count=4" in lines[1]


@pytest.mark.parametrize("launcher", [local, supervise, slurm, tpu_vm, gke])
def test_nothing_to_run_is_said(launcher, capsys):
  with pytest.raises(SystemExit) as stop:
    launcher.main(["--print"])
  assert stop.value.code == 2 and "--" in capsys.readouterr().err


def test_the_first_failure_is_shown_last_with_its_code(capsys):
  """Members are any programs here: one fails, the other would sleep for ever."""
  def member(number, code):
    made = local.Member(number, local.subprocess.Popen([sys.executable, "-c", code]))
    made.lines = [f"said by {number}\n"]
    return made
  code = local.wait([member(0, "import time; time.sleep(100)"), member(1, "raise SystemExit(3)")], grace=0.2)
  assert code == 3
  err = capsys.readouterr().err
  assert err.rstrip().endswith("said by 1") and "process 1 ended first, with exit code 3" in err


def test_a_signal_is_an_exit_code_as_in_a_shell():
  assert [local.exit_code(c) for c in (0, 3, -9, -6)] == [0, 3, 137, 134]


def supervised(codes, checkpoints):
  codes, checkpoints, pauses, said = iter(codes), iter(checkpoints), [], []
  code = supervise.supervise(lambda: next(codes), lambda: next(checkpoints), pauses.append, said.append)
  return code, pauses, said


def test_the_supervisor_starts_again_what_asks_for_it():
  code, pauses, _ = supervised([75, 137, 134, 0], [None, 10, 20, 30])
  assert code == 0 and pauses == [1, 1, 1]


@pytest.mark.parametrize("final", [0, 1, 2, 3, 4])
def test_the_supervisor_ends_on_what_no_start_will_mend(final):
  assert supervised([final], [None])[0] == final


def test_the_supervisor_gives_up_without_progress_and_says_why():
  code, pauses, said = supervised([137] * 10, [5] * 10)
  assert code == 137 and pauses == [2, 4]
  assert "3 starts brought no newer checkpoint (checkpoint 5): giving up" in said[-1]


def test_slurm_script(capsys):
  assert slurm.main(["--print", "--nodes=4", "--tasks_per_node=8", "--time=12:00:00", "--partition=gpu", *RUN]) == 0
  script = capsys.readouterr().out
  for line in ("#SBATCH --nodes=4", "#SBATCH --ntasks-per-node=8", "#SBATCH --partition=gpu", "#SBATCH --requeue",
               "#SBATCH --signal=TERM@120"):
    assert line in script
  assert "srun --kill-on-bad-exit=1 python -m llm_jax.train" in script and "scontrol requeue" in script


def test_tpu_vm_command(capsys):
  assert tpu_vm.main(["--print", "--name=pod", "--zone=us-east5-a", *RUN]) == 0
  line = capsys.readouterr().out
  assert line.startswith("gcloud compute tpus tpu-vm ssh pod --zone=us-east5-a --worker=all")
  assert "LLM_JAX_CLUSTER=tpu" in line and "llm_jax.train" in line


def test_gke_manifest(capsys):
  assert gke.main(["--print", "--name=run", "--image=img", "--topology=4x4x4", "--slices=2", *RUN]) == 0
  shown = capsys.readouterr().out
  manifest = json.loads(shown[shown.index("{"):shown.rindex("}") + 1])
  job = manifest["spec"]["replicatedJobs"][0]
  assert manifest["kind"] == "JobSet" and job["replicas"] == 2
  pods = job["template"]["spec"]
  assert pods["parallelism"] == pods["completions"] == 16  # 64 chips, 4 to a host
  rules = {c["action"]: c["onExitCodes"]["values"] for c in pods["podFailurePolicy"]["rules"]}
  assert 2 in rules["FailJob"] and not set(rules["FailJob"]) & set(supervise.RESTARTED)
  container = pods["template"]["spec"]["containers"][0]
  assert container["resources"]["limits"] == {"google.com/tpu": 4}
  assert container["command"][:3] == ["python", "-m", "llm_jax.train"]
