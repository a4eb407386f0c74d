"""What a checkpoint promises: the same bits back, on any mesh; snapshots; retention; parts; names of what is wrong."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from llm_jax.core.errors import CheckpointError
from llm_jax.core.types import TrainState
from llm_jax.training import seal
from llm_jax.training.checkpoint import Checkpoints, load_params


def make_state(seed=0, *, width=16, ema=True):
  """A small train state with everything that is hard to store: typed keys, bfloat16, booleans, empty arrays."""
  draw = np.random.default_rng(seed).normal
  params = {"blocks.mlp.kernel": jnp.asarray(draw(size=(2, 8, width)), jnp.float32),
            "embed.table": jnp.asarray(draw(size=(24, 8)), jnp.bfloat16), "odd/name[0]": jnp.float32(seed)}
  return TrainState(step=jnp.int32(seed), key=jax.random.key(seed), params=params,
                    frozen={"mask": jnp.arange(24) % 2 == 0, "none": jnp.zeros((0, 3))},
                    opt_state=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init(params),
                    ema=jax.tree.map(lambda p: p + 1, params) if ema else {},
                    guard={"skipped": jnp.int32(2), "mean": jnp.float32(jnp.nan),
                           "keys": jax.random.split(jax.random.key(5), 3)})


def bits(state):
  data = lambda x: np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
  return [(str(x.dtype), x.shape, data(x).tobytes()) for x in jax.tree.leaves(state)]


def over(state, devices):
  """The state with its kernels split over `devices` devices."""
  mesh = jax.make_mesh((devices,), ("fsdp",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
  splits = lambda x: x.ndim and x.shape[-1] and x.shape[-1] % devices == 0
  spec = lambda x: PartitionSpec(*(None,) * (x.ndim - 1), "fsdp") if splits(x) else PartitionSpec()
  return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, spec(x))), state)


def abstract(state):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def test_the_same_bits_come_back(tmp_path):
  state = make_state(7)
  extra = {"config": {"model": {"name": "gpt"}}, "data": {"cursor": 0.1 + 0.2, "best": float("inf")}}
  with Checkpoints(tmp_path / "c") as checkpoints:
    assert checkpoints.latest_good() is None
    assert checkpoints.save(7, state, extra, {"eval/loss": 1.5})
    checkpoints.wait()
    assert checkpoints.latest_good() == 7
    restored, read = checkpoints.restore(7, abstract(state))
  assert bits(restored) == bits(state)
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  assert read == extra


def test_bits_survive_other_meshes(tmp_path):
  state = make_state(3)
  with Checkpoints(tmp_path) as checkpoints:
    for step, (before, after) in enumerate([(8, 4), (4, 1), (1, 2), (2, 8)]):
      checkpoints.save(step, over(state, before), {})
      checkpoints.wait()
      wanted = abstract(over(state, after))
      restored, _ = checkpoints.restore(step, wanted)
      assert bits(restored) == bits(state)
      assert [x.sharding for x in jax.tree.leaves(restored)] == [x.sharding for x in jax.tree.leaves(wanted)]


@pytest.mark.parametrize("count", [1, 8])
def test_a_save_is_a_snapshot(tmp_path, count):
  """The next step may donate the arrays while they are still being written."""
  state = over({"w": jnp.arange(1 << 20, dtype=jnp.float32).reshape(64, -1), "n": jnp.zeros(8)}, count)
  expected, wanted = bits(state), abstract(state)
  step = jax.jit(lambda s: jax.tree.map(lambda x: x * 2 + 1, s), donate_argnums=0)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state, {})
    for _ in range(5):
      state = step(state)
    jax.block_until_ready(state)
    checkpoints.wait()
    assert bits(checkpoints.restore(1, wanted)[0]) == expected


def test_what_does_not_fit_is_named(tmp_path):
  state = make_state()
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state, {})
    checkpoints.wait()
    renamed = {**state.params, "embed.tables": state.params["embed.table"]}
    renamed.pop("embed.table")
    for other, words in [
        (state.replace(params=renamed), ["missing params.embed.tables", "unexpected params.embed.table"]),
        (make_state(width=32), ["optimizer: params.blocks.mlp.kernel is float32[2, 8, 16], expected", "[2, 8, 32]"]),
        (state.replace(step=jnp.float32(0)), ["step is int32[], expected float32[]"]),
        (state.replace(key=jax.random.key(0, impl="rbg")), ["key is key<fry>[], expected key<rbg>[]"]),
        (state.replace(opt_state=optax.sgd(1.0).init(state.params)), ["unexpected opt_state.1.0.count"]),
    ]:
      with pytest.raises(CheckpointError) as caught:
        checkpoints.restore(1, abstract(other))
      assert all(word in str(caught.value) for word in [*words, "--init_from"]), str(caught.value)
      assert len(str(caught.value).splitlines()) <= 10
    with pytest.raises(CheckpointError, match=r"checkpoint 9 is not in .*; there: 1"):
      checkpoints.restore(9, abstract(state))


def test_retention_keeps_the_newest_and_the_best(tmp_path):
  losses = {1: 3.0, 2: 1.0, 3: float("nan"), 4: 2.0, 5: 1.0, 6: 4.0}
  with Checkpoints(tmp_path, keep=2, keep_best=("eval/loss", "min")) as checkpoints:
    for step, loss in losses.items():
      checkpoints.save(step, {"x": jnp.float32(step)}, {}, {"eval/loss": loss})
    checkpoints.wait()
    assert checkpoints.sealed() == [2, 5, 6]
    assert checkpoints.best() == 2
    assert checkpoints.latest_good() == 6
  assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "5", "6"]


def test_what_is_measured_later_counts_and_the_seal_holds_at_every_instant(tmp_path, monkeypatch):
  replace, seen = os.replace, []

  def watched(source, target):
    seen.append(seal.verify(tmp_path / "1"))
    replace(source, target)
    seen.append(seal.verify(tmp_path / "1"))
  with Checkpoints(tmp_path, keep=1, keep_best=("eval/loss", "max")) as checkpoints:
    checkpoints.save(1, {"x": jnp.float32(1)}, {"a": 1}, {"eval/other": 1.0})
    checkpoints.wait()
    files = {p.name: p.read_bytes() for p in (tmp_path / "1").iterdir() if p.is_file() and p.name != seal.MANIFEST}
    with monkeypatch.context() as patch:
      patch.setattr(os, "replace", watched)
      checkpoints.record(1, {"eval/loss": np.float32(2.0)})
    assert seen == [[], []]
    assert seal.read_manifest(tmp_path / "1")["metrics"] == {"eval/other": 1.0, "eval/loss": 2.0}
    assert {n: (tmp_path / "1" / n).read_bytes() for n in files} == files
    checkpoints.save(2, {"x": jnp.float32(2)}, {}, {"eval/loss": 1.0})
    checkpoints.wait()
    assert checkpoints.sealed() == [1, 2]
    checkpoints.record(2, {"eval/loss": 3.0})
    assert checkpoints.sealed() == [2], "the best before it need not stay"


def test_another_process_records_nothing_and_a_disk_that_refuses_is_told(tmp_path, monkeypatch):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {"x": jnp.float32(1)}, {}, {"eval/loss": 1.0})
    checkpoints.wait()
    with monkeypatch.context() as patch:
      patch.setattr(jax, "process_index", lambda: 1)
      checkpoints.record(1, {"eval/loss": 2.0})
    with monkeypatch.context() as patch:
      patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
      with pytest.raises(CheckpointError, match=r"measured at checkpoint 1 could not be added .*No space left"):
        checkpoints.record(1, {"eval/loss": 2.0})
    assert not seal.verify(tmp_path / "1") and seal.read_manifest(tmp_path / "1")["metrics"] == {"eval/loss": 1.0}


def test_the_last_step_can_be_saved_twice(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.save(4, {"x": jnp.float32(1)}, {"first": True})
    assert not checkpoints.save(4, {"x": jnp.float32(1)}, {"first": False})
    assert checkpoints.restore(4, {"x": jnp.float32(0)})[1] == {"first": True}


def test_weights_alone(tmp_path):
  state = make_state(2)
  with Checkpoints(tmp_path / "c") as checkpoints:
    checkpoints.save(1, make_state(1), {})
    checkpoints.save(2, state, {"config": {"model": 1}})
  listing = sorted(p.name for p in (tmp_path / "c").rglob("*"))
  step, params, frozen, extra = load_params(tmp_path / "c")
  assert (step, bits(params), frozen, extra) == (2, bits(state.params), {}, {"config": {"model": 1}})
  assert bits(load_params(tmp_path / "c", ema=True).params) == bits(state.ema)
  assert bits(load_params(tmp_path / "c", frozen=True).frozen) == bits(state.frozen)
  assert load_params(tmp_path / "c", step=1).step == 1
  assert sorted(p.name for p in (tmp_path / "c").rglob("*")) == listing  # looking changes nothing
  wanted = {n: jax.ShapeDtypeStruct(p.shape, jnp.float32) for n, p in state.params.items()}
  assert {p.dtype for p in load_params(tmp_path / "c", expected=wanted).params.values()} == {jnp.dtype("float32")}
  wanted["head"] = wanted.pop("embed.table")
  with pytest.raises(CheckpointError, match=r"not of this model: missing head; unexpected embed\.table"):
    load_params(tmp_path / "c", expected=wanted)
  with pytest.raises(CheckpointError, match="no checkpoint there"):
    load_params(tmp_path / "nothing")


def test_no_average_is_said(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, make_state(ema=False), {})
  with pytest.raises(CheckpointError, match="kept no average"):
    load_params(tmp_path, ema=True)


def test_the_manifest_says_what_the_step_is(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(5, make_state(), {"config": {"a": 1}}, {"eval/loss": 2.0})
  manifest = json.loads((tmp_path / "5" / "manifest.json").read_text())
  assert manifest["step"] == 5 and manifest["metrics"] == {"eval/loss": 2.0}
  assert manifest["versions"]["jax"] == jax.__version__
  on_disk = {str(p.relative_to(tmp_path / "5")) for p in (tmp_path / "5").rglob("*") if p.is_file()}
  assert {f["path"] for f in manifest["files"]} == on_disk - {"manifest.json"}


def test_a_bucket_address_is_refused():
  with pytest.raises(CheckpointError, match="mount the bucket"):
    Checkpoints("gs://bucket/run/checkpoints")
