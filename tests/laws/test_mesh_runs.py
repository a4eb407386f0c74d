"""Runs on meshes of many axes: weights are made in place, checkpoints move between meshes, evaluation agrees, and what
cannot be is refused with both numbers.
"""

import math

import in_process
import jax
import numpy as np
import pytest

from llm_jax import dry_run, experiment
from llm_jax.core.errors import ConfigError
from llm_jax.training.checkpoint import Checkpoints

PLAIN = dict(model=dict(dropout=0.0, heads=4), train=dict(accumulate=1, batch_size=16), ema=None)
STAGES = dict(data=1, stage=2, expert=2, fsdp=2)
PARTS = dict(data=2, context=4)


def test_weights_are_made_where_they_lie(monkeypatch):
  """Neither the result nor the work of making it is ever whole on one device: so an 8B model can start."""
  run = in_process.build(monkeypatch, 8, **PLAIN | dict(model=dict(width=128, heads=4, dropout=0.0)),
                         mesh=dict(data=1, fsdp=8))
  arrays = [leaf for leaf in jax.tree.leaves(run.abstract_state) if leaf.ndim]
  whole = sum(leaf.size * leaf.dtype.itemsize for leaf in arrays)
  part = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in arrays)
  made = jax.jit(run._make_state, out_shardings=run.state_shardings).lower(jax.random.key(0)).compile()
  memory = made.memory_analysis()
  assert part < whole / 4  # the vocabulary of 74 characters stays whole
  assert memory.output_size_in_bytes < part + 1024
  assert memory.temp_size_in_bytes < whole / 8


@pytest.fixture(scope="module")
def one_device():
  """(losses of 5 steps, evaluation after them) on one device."""
  with pytest.MonkeyPatch.context() as monkeypatch:
    run = in_process.build(monkeypatch, **PLAIN)
    state, rows = in_process.steps(run, 5)
    return [row["loss"] for row in rows], run.evaluate(state.params, state.frozen)


def test_a_checkpoint_of_one_mesh_goes_on_on_another(monkeypatch, tmp_path, one_device):
  before = in_process.build(monkeypatch, 8, **PLAIN, mesh=STAGES)
  after = in_process.build(monkeypatch, 8, **PLAIN, mesh=PARTS)
  state, rows = in_process.steps(before, 3)
  with Checkpoints(tmp_path) as saved:
    saved.save(3, state, {}, {})
    saved.wait()
    again, _ = saved.restore(3, after.abstract_state)
  assert in_process.bits(again) == in_process.bits(state)
  moved = {n: (p.sharding.spec, state.params[n].sharding.spec) for n, p in again.params.items()}
  assert any(here != there for here, there in moved.values())
  again, more = in_process.steps(after, 2, again)
  losses, evaluation = one_device
  np.testing.assert_allclose([row["loss"] for row in rows + more], losses, rtol=1e-5)
  found = after.evaluate(again.params, again.frozen)
  assert found.keys() == evaluation.keys()
  for name, value in evaluation.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
  placed = jax.device_put(again.params, before.state_shardings.params)
  np.testing.assert_allclose(before.evaluate(placed, {})["eval/loss"], evaluation["eval/loss"], rtol=1e-5)


def test_an_optimizer_kept_by_the_host_changes_no_number(monkeypatch, tmp_path, one_device):
  run = in_process.build(monkeypatch, 8, **PLAIN, mesh=dict(data=2, fsdp=4, offload_optimizer=True))
  state, rows = in_process.steps(run, 2)
  kinds = lambda state: [leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
  assert set(kinds(state)) == {"pinned_host"}
  with Checkpoints(tmp_path) as saved:
    saved.save(2, state, {}, {})
    saved.wait()
    state, _ = saved.restore(2, run.abstract_state)
  assert set(kinds(state)) == {"pinned_host"}
  _, more = in_process.steps(run, 3, state)
  np.testing.assert_allclose([row["loss"] for row in rows + more], one_device[0], rtol=1e-5)


def test_a_dry_run_says_what_lies_where(monkeypatch):
  run = in_process.build(monkeypatch, 8, **PLAIN, mesh=STAGES | dict(microbatches=4))
  text = dry_run.describe(run, compile=False)
  assert "mesh fsdp=2 x stage=2 x expert=2 over 8" in text
  assert "4 micro-batches, 2 stages, 1 round(s): 5 turns, idle 20.0%" in text
  assert "expert   " in text and "P('stage'," in text


def test_tasks_are_not_sent_through_a_pipeline():
  config = dict(model=dict(name="mlp", hidden=[8, 8]), data=dict(name="sinusoids", support=4, query=4),
                objective=dict(name="regression"), meta_learning=dict(name="maml", inner_steps=2),
                optimizer=dict(name="adam", peak=1e-2, decay="constant"),
                train=dict(steps=4, batch_size=8, length=1), mesh=dict(data=2, stage=4))
  with pytest.raises(ConfigError, match=r"config\.mesh\.stage: 4 stages, and config\.meta_learning \(maml\)"):
    experiment.build(config)


def test_a_network_that_cannot_be_a_pipeline_says_so(monkeypatch):
  special = ("eod", "pad", "cls", "sep", "mask")
  with pytest.raises(ConfigError, match=r"config\.mesh\.stage: got 2, and the layers of this network"):
    in_process.build(monkeypatch, 2, model=dict(name="deberta", variant="debug"), objective=dict(name="masked_lm"),
                     data=dict(tokenizer=dict(name="characters", special=special)), sample=dict(every=0),
                     mesh=dict(data=1, stage=2))
