"""The encoders' configs learn: from scratch, on the embedded text, the loss of masked tokens falls below the unigram
entropy of the text, which is what knowing nothing but the tokens' frequencies gives."""

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


def unigram_entropy(config: str) -> float:
  """Nats per token of the training text."""
  run = experiment.build(configs.load_file(config))
  batches = [run.corpus.train.take(i, Plan(64, 128)) for i in range(30)]
  counts = np.bincount(np.concatenate([b["tokens"][b["segment_ids"] > 0] for b in batches]))
  share = counts[counts > 0] / counts.sum()
  return float(-(share * np.log(share)).sum())


@pytest.mark.slow
@pytest.mark.parametrize("file, argument, metric", [
    ("bert", "debug", "eval/masked_lm_loss"), ("bert", "debug-roberta", "eval/loss"),
    ("ernie", "debug", "eval/masked_lm_loss"), ("electra", "debug", "eval/generator_loss")])
def test_masked_tokens_are_predicted_better_than_by_their_frequency(file, argument, metric, tmp_path):
  config = f"{ROOT}/configs/{file}.py:{argument}"
  done = door.call(f"--config={config}", f"--workdir={tmp_path}")
  assert done.code == 0, done.err
  final = [row[metric] for row in door.rows(tmp_path) if metric in row][-1]
  assert final < unigram_entropy(config) - 0.2
