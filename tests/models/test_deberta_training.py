"""DeBERTa and ERNIE with knowledge learn on the embedded text, from their configs, on one device and on a mesh."""

import pathlib

import jax
import numpy as np
import pytest

from llm_jax import experiment
from llm_jax.core import config as configs

ROOT = pathlib.Path(__file__).resolve().parents[2]


def built(name, monkeypatch, devices=1, steps=None, batch=None, **changes):
  config = configs.load_file(f"{ROOT / 'configs' / name}") | changes
  config["train"]["steps"] = steps or config["train"]["steps"]
  config["train"]["batch_size"] = batch or config["train"]["batch_size"]
  first = jax.devices()[:devices]
  with monkeypatch.context() as patch:
    patch.setattr(jax, "devices", lambda *_: first)
    return experiment.build(config)


def trained(run, count):
  """The state after `count` steps and the loss of each."""
  state, losses = run.init_state(), []
  for step in range(count):
    state, metrics = run.compiled_step(state, run.batch(step), {})
    losses.append(float(metrics[run.metric_names.index("loss")]))
  return state, losses


def entropy(tokens, size):
  """Of single tokens, in nats."""
  share = np.bincount(tokens, minlength=size) / len(tokens)
  return float(-(share[share > 0] * np.log(share[share > 0])).sum())


@pytest.mark.slow
@pytest.mark.parametrize("name, steps, measured", [
    ("deberta.py:debug", 200, "loss"), ("deberta.py:debug-v3", 200, "generator_loss"),
    ("ernie_knowledge.py:debug", 400, "masked_lm_loss")])
def test_masked_words_are_found_better_than_by_their_frequency(monkeypatch, name, steps, measured):
  run = built(name, monkeypatch, steps=steps)
  state, _ = trained(run, steps)
  tokens = np.concatenate([np.asarray(s.tokens) for s in run.corpus.streams if s.split == "validation"])
  assert run.evaluate(state.params, state.frozen)[f"eval/{measured}"] < entropy(tokens, run.corpus.vocab_size) - 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deberta.py:debug", "deberta.py:debug-v3", "ernie_knowledge.py:debug"])
def test_one_device_and_a_mesh_train_alike(monkeypatch, name):
  losses = [trained(built(name, monkeypatch, devices=n, batch=8, mesh=shape), 4)[1]
            for n, shape in ((1, {}), (8, dict(data=2, fsdp=2, tensor=2)))]
  np.testing.assert_allclose(losses[1], losses[0], rtol=2e-4)
