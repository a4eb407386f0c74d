"""Configs of recurrent, character and sparse networks learn: from scratch, on the embedded text, the held-out loss
falls below the entropy of the targets' frequencies, which is what knowing nothing else gives.
"""

import pathlib
import sys

import numpy as np
import pytest

from llm_jax import experiment
from llm_jax.core import config as configs
from llm_jax.core.types import Plan

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "laws"))
import door  # noqa: E402


def target_entropy(run: experiment.Run) -> float:
  """Nats per held-out target."""
  data, plan = run.corpus.evals["validation"], Plan(run.train.batch_size, run.train.length)
  name = "labels" if "labels" in data.fields else "targets"
  batches = [data.take(i, plan) for i in range(min(30, data.batches(plan.batch, plan.length)))]
  counts = np.bincount(np.concatenate([b[name][b["weights"] > 0].ravel() for b in batches]))
  share = counts[counts > 0] / counts.sum()
  return float(-(share * np.log(share)).sum())


@pytest.mark.slow
@pytest.mark.parametrize("file, argument", [
    ("lstm", "debug"), ("lstm", "debug-gru"), ("char_word_lm", "debug"), ("char_cnn", "debug"),
    ("decoder", "debug-mixtral"), ("decoder", "debug-qwen3-moe")])
def test_targets_are_predicted_better_than_by_their_frequency(file, argument, tmp_path):
  config = f"{ROOT}/configs/{file}.py:{argument}"
  done = door.call(f"--config={config}", f"--workdir={tmp_path}")
  assert done.code == 0, done.err
  final = [row["eval/loss"] for row in door.rows(tmp_path) if "eval/loss" in row][-1]
  assert final < target_entropy(experiment.build(configs.load_file(config))) - 0.1
