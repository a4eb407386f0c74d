"""A damaged checkpoint is never loaded, never silently replaced by a fresh start, and never deleted."""

import logging
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.errors import CheckpointError
from llm_jax.training import seal
from llm_jax.training.checkpoint import Checkpoints, load_params


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(bytes(data))


def truncate(path):
  os.truncate(path, path.stat().st_size // 2)


def zero(path):
  path.write_bytes(bytes(path.stat().st_size))


def delete(path):
  path.unlink()


DAMAGES = [flip, truncate, zero, delete]


def state_of(step):
  draw = np.random.default_rng(step).normal
  return {"params": {f"w{i}": jnp.asarray(draw(size=(64, 40)), jnp.float32) for i in range(4)},
          "key": jax.random.key(step), "step": jnp.int32(step)}


def equal(a, b):
  same = lambda x, y: bool((x == y).all())
  return jax.tree.all(jax.tree.map(same, a, b))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  directory = tmp_path_factory.mktemp("written")
  with Checkpoints(directory) as checkpoints:
    for step in (100, 200, 300):
      checkpoints.save(step, state_of(step), {"step": step})
  return directory


@pytest.fixture
def copy(written, tmp_path):
  return shutil.copytree(written, tmp_path / "c")


def files(step_directory):
  return sorted(p.relative_to(step_directory) for p in step_directory.rglob("*") if p.is_file())


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_file_every_damage(written, tmp_path, caplog, damage):
  """Detected, named and fallen back from: all of them, for every file of the newest step."""
  names = files(written / "300")
  assert len(names) > 8
  for i, name in enumerate(names):
    directory = tmp_path / str(i)
    shutil.copytree(written / "300", directory / "300")
    shutil.copytree(written / "200", directory / "200")
    before = (directory / "300" / name).read_bytes()
    damage(directory / "300" / name)
    if (directory / "300" / name).exists() and (directory / "300" / name).read_bytes() == before:
      continue  # an empty file has no bit to flip
    caplog.clear()
    checkpoints = Checkpoints(directory)
    assert checkpoints.latest_good() == 200, name
    assert f"checkpoint 300 is damaged: {name} (" in caplog.text and "; using 200" in caplog.text
    assert equal(checkpoints.restore(200, state_of(0))[0], state_of(200))
    assert not (directory / "300").exists() and (directory / "300.damaged").is_dir()


def test_a_step_asked_for_by_number_is_verified_too(copy, monkeypatch):
  monkeypatch.setattr(seal, "ALWAYS_HASHED_BELOW", 0)  # as if the files were large
  flip(next((copy / "200" / "state" / "d").iterdir()))
  with pytest.raises(CheckpointError, match=r"checkpoint 200 is damaged: state/d/"):
    Checkpoints(copy).restore(200, state_of(0))
  with pytest.raises(CheckpointError, match=r"checkpoint 200 is damaged"):
    load_params(copy, step=200)
  assert (copy / "200").is_dir()


def test_all_damaged_is_an_error_every_time(copy):
  """Also when the same command is run again after the damaged ones were set aside."""
  for step in ("100", "200", "300"):
    delete(copy / step / "manifest.json")
  for _ in range(2):
    with pytest.raises(CheckpointError, match="no usable checkpoint") as caught:
      Checkpoints(copy).latest_good()
    assert caught.value.exit_code == 4
    assert len(str(caught.value).splitlines()) <= 10
  assert sorted(p.name for p in copy.iterdir()) == ["100.damaged", "200.damaged", "300.damaged"]


def test_a_reader_renames_nothing(copy, caplog):
  flip(next((copy / "300" / "state" / "d").iterdir()))
  loaded = load_params(copy)
  assert loaded.step == 200 and equal(loaded.params, state_of(200)["params"])
  assert "checkpoint 300 is damaged" in caplog.text and (copy / "300").is_dir()


def test_a_swapped_step_is_damage(copy, caplog):
  shutil.rmtree(copy / "300")
  shutil.copytree(copy / "100", copy / "300")
  assert Checkpoints(copy).latest_good() == 200
  assert "manifest.json (is of step 100)" in caplog.text


def test_an_edited_manifest_is_damage(copy, caplog):
  """Its metrics choose the best step, so it is under a hash of its own."""
  manifest = copy / "300" / "manifest.json"
  manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
  assert Checkpoints(copy).latest_good() == 200
  assert "manifest.json (hash differs)" in caplog.text


def test_half_written_steps_are_ignored_and_swept(copy, caplog):
  caplog.set_level(logging.INFO)
  os.rename(copy / "300", copy / "300.saving")
  delete(copy / "300.saving" / "manifest.json")
  (copy / "50.trash").mkdir()
  with Checkpoints(copy) as checkpoints:
    assert checkpoints.latest_good() == 200
    assert "300.saving is not complete" in caplog.text
    checkpoints.save(300, state_of(300), {})
    checkpoints.wait()
    assert checkpoints.latest_good() == 300
  assert sorted(p.name for p in copy.iterdir()) == ["100", "200", "300"]


def test_only_half_written_steps_are_a_fresh_start(tmp_path):
  (tmp_path / "10.saving" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
  assert Checkpoints(tmp_path).latest_good() is None


def test_sizes_only(copy):
  """'size' still finds what changes a size, and every bit of the small files."""
  checkpoints = Checkpoints(copy, verify="size")
  truncate(next((copy / "300" / "state" / "ocdbt.process_0" / "d").iterdir()))
  assert checkpoints.latest_good() == 200
  flip(copy / "200" / "extra.json")
  assert checkpoints.latest_good() == 100


def test_damage_again_at_the_same_step(copy):
  """A step that is written anew after damage and damaged once more does not overwrite the first evidence."""
  flip(copy / "300" / "extra.json")
  with Checkpoints(copy) as checkpoints:
    assert checkpoints.latest_good() == 200
    checkpoints.save(300, state_of(300), {})
    checkpoints.wait()
    flip(copy / "300" / "extra.json")
    assert checkpoints.latest_good() == 200
  assert {p.name for p in copy.iterdir()} >= {"300.damaged", "300.damaged-2"}
