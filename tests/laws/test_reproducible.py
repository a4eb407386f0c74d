"""The same config and seed give the same numbers: to the bit on the same devices, whatever process, folder, clock or
number of data workers; to rounding on any mesh, in any number of micro-batches, by any way to run the layers.
"""

import json

import door
import in_process
import jax
import numpy as np
import pytest

from llm_jax.training.step import knobs_of

# float32 without dropout; a mesh axis of 1 is not written.
PLAIN = dict(model=dict(dropout=0.0, remat="dots"), train=dict(accumulate=2, batch_size=16), ema=None)
STEPS = 20
MESHES = {
    "data": (2, dict(data=2)),
    "fsdp": (2, dict(data=1, fsdp=2)),
    "tensor": (2, dict(data=1, tensor=2)),
    "data x fsdp x tensor": (8, dict(data=2, fsdp=2, tensor=2)),
}


def test_other_process_folder_clock_and_workers(unbroken, tmp_path):
  """R16: nothing but config and seed enters the numbers."""
  outcome = door.spawn(*door.tiny(tmp_path / "run", "--config.train.workers=2"), cwd=tmp_path, PYTHONHASHSEED="4711",
                       TZ="Pacific/Auckland", LANG="C")
  assert outcome.code == 0, outcome.err
  assert not door.differences(tmp_path / "run", unbroken)


@pytest.mark.slow
def test_one_worker(unbroken, tmp_path):
  outcome = door.spawn(*door.tiny(tmp_path / "run", "--config.train.workers=1", "--config.train.prefetch=1"))
  assert outcome.code == 0, outcome.err
  assert not door.differences(tmp_path / "run", unbroken)


def test_another_seed_is_another_run(unbroken, monkeypatch):
  first = door.rows(unbroken)[0]["train/loss"]
  run = in_process.build(monkeypatch, train=dict(seed=1))
  assert abs(in_process.losses(run, 1)[0] - first) > 1e-4


@pytest.fixture(scope="module")
def reference():
  """Losses on one device."""
  with pytest.MonkeyPatch.context() as monkeypatch:
    return in_process.losses(in_process.build(monkeypatch, **PLAIN), STEPS)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if " x " in n else pytest.mark.slow) for n in MESHES])
def test_any_mesh_gives_the_losses_of_one_device(name, reference, monkeypatch):
  devices, mesh = MESHES[name]
  run = in_process.build(monkeypatch, devices, mesh=mesh, **PLAIN)
  assert run.rules.mesh.size == devices
  whole = run.model.shapes["blocks.feed_forward.up.kernel"].shape
  part = run.state_shardings.params["blocks.feed_forward.up.kernel"].shard_shape(whole)
  assert (part == whole) == (name == "data"), "the parameters are not split as the mesh says"
  np.testing.assert_allclose(in_process.losses(run, STEPS), reference, rtol=1e-5)


@pytest.mark.parametrize("mesh", [pytest.param(dict(data=2), marks=pytest.mark.slow),
                                  dict(data=2, fsdp=2, tensor=2)], ids=str)
def test_state_split_over_copies_gives_the_losses_of_one_device(mesh, reference, monkeypatch):
  changes = PLAIN | dict(train=PLAIN["train"] | dict(split_state=True))
  run = in_process.build(monkeypatch, int(np.prod(list(mesh.values()))), mesh=mesh, **changes)
  name = "blocks.feed_forward.up.kernel"
  parameter, moment = run.state_shardings.params[name], jax.tree.leaves(
      [s for p, s in jax.tree_util.tree_leaves_with_path(run.state_shardings.opt_state) if name in str(p)])[0]
  shape = run.model.shapes[name].shape
  assert 2 * np.prod(moment.shard_shape(shape)) == np.prod(parameter.shard_shape(shape))
  np.testing.assert_allclose(in_process.losses(run, STEPS), reference, rtol=1e-5)


@pytest.mark.parametrize("model", [dict(scan=False, remat="none"),
                                   pytest.param(dict(scan=True, remat="full"), marks=pytest.mark.slow)])
def test_scan_loop_and_remat_are_the_same(model, reference, monkeypatch):
  run = in_process.build(monkeypatch, **PLAIN | dict(model=PLAIN["model"] | model))
  np.testing.assert_allclose(in_process.losses(run, STEPS), reference, rtol=1e-5)


def test_micro_batches_are_one_batch(monkeypatch, tmp_path):
  """Rows of unequal length: the gradient is divided once, by the targets of the whole batch (packing='pad')."""
  lines = (json.dumps({"text": "abcdefghijklmnop"[: 2 + i * 7 % 14]}) for i in range(200))
  (tmp_path / "lines.jsonl").write_text("\n".join(lines))
  found = []
  for accumulate in (1, 4):
    config = in_process.config(ema=None, data=dict(packing="pad", path=str(tmp_path)), guard=dict(window=0),
                               model=dict(dropout=0.0), train=dict(accumulate=accumulate))
    config["optimizer"] = dict(name="sgd", peak=1.0, decay="constant", momentum=0.0, clip=None)
    run = in_process.build_from(monkeypatch, config)
    state = run.init_state()
    weights = np.asarray(run.batch(0)["weights"]).reshape(4, 4, -1).sum((1, 2))
    assert len(set(weights.tolist())) > 1, "the micro-batches weigh the same: nothing is tested"
    before = jax.device_get(state.params)
    state, (row,) = in_process.steps(run, 1, state)
    found.append((row["loss"], {n: before[n] - np.asarray(p) for n, p in state.params.items()}))
  (one, gradient), (many, accumulated) = found
  assert abs(one - many) < 1e-6
  for name, value in gradient.items():
    np.testing.assert_allclose(accumulated[name], value, atol=1e-6, err_msg=name)


def test_the_average_follows_its_formula(monkeypatch):
  run = in_process.build(monkeypatch, ema=dict(decay=0.9, start="none"))
  state, expected = run.init_state(), None
  for _ in range(3):
    expected = jax.device_get(state.params) if expected is None else expected
    state, _ = in_process.steps(run, 1, state)
    expected = {n: 0.9 * a + 0.1 * np.asarray(state.params[n]) for n, a in expected.items()}
  for name, value in expected.items():
    np.testing.assert_allclose(np.asarray(state.ema[name]), value, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_one_program_per_planned_shape(monkeypatch):
  """A curriculum over lengths compiles once per length, whatever the number of steps, and no knob compiles anew."""
  run = in_process.build(monkeypatch, curriculum=dict(name="sequence_length", start=8, until=0.5),
                         train=dict(steps=12), ema=None, optimizer=dict(horizon=12))
  planned = run.curriculum.shapes()
  state, seen = run.init_state(), set()
  for step in range(12):
    plan = run.curriculum.plan(step, run.curriculum.init())
    seen.add((plan.batch, plan.length))
    state, _ = run.compiled_step(state, run.batch(step), knobs_of(plan))
  assert seen == planned and len(planned) > 1
  assert run.compiled_step._cache_size() == len(planned)
