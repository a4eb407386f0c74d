"""A disk that is full, read-only or slow to fail: an error with the numbers, and every older step intact."""

import contextlib
import errno
import resource
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.errors import CheckpointError
from llm_jax.training import seal
from llm_jax.training.checkpoint import Checkpoints

BIG = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(512, 512)), jnp.float32)}
SMALL = {"w": jnp.zeros((4, 4))}


@contextlib.contextmanager
def files_limited_to(size):
  """No file can grow beyond `size` bytes, as on a full disk (EFBIG instead of ENOSPC)."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def told(error, directory):
  """The message has the path, both numbers and the last good step, on a few lines."""
  text = str(error)
  return (str(directory) in text and "needs up to 1,0" in text and "bytes free" in text
          and "the last good step, 1, is intact" in text and len(text.splitlines()) <= 4)


def test_writing_fails_in_the_background(tmp_path, capfd, caplog):
  """One short error; the step before is good; saving works again when there is room."""
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, SMALL, {})
  checkpoints.wait()
  with files_limited_to(100_000):
    with pytest.raises(CheckpointError) as caught:
      checkpoints.save(2, BIG, {})
      checkpoints.wait()
  assert told(caught.value, tmp_path), str(caught.value)
  assert caught.value.exit_code == 4
  assert "Traceback" not in capfd.readouterr().err + caplog.text
  assert checkpoints.latest_good() == 1
  assert not (tmp_path / "2.saving").exists()
  assert checkpoints.save(3, BIG, {})
  checkpoints.close()
  assert checkpoints.latest_good() == 3


def test_check_surfaces_an_asynchronous_failure(tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, SMALL, {})
  checkpoints.wait()
  checkpoints.check()

  def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(seal, "seal", full)
  assert checkpoints.save(2, SMALL, {})
  checkpoints._thread.join()
  with pytest.raises(CheckpointError, match=r"checkpoint 2 could not be written.*No space left"):
    checkpoints.check()
  checkpoints.check()  # told once
  checkpoints.close()
  assert checkpoints.latest_good() == 1


def test_warn_goes_on(tmp_path, caplog):
  checkpoints = Checkpoints(tmp_path, on_save_error="warn")
  checkpoints.save(1, SMALL, {})
  checkpoints.wait()
  with files_limited_to(100_000):
    checkpoints.save(2, BIG, {})
    checkpoints.wait()
  assert "checkpoint 2 could not be written" in caplog.text and "1, is intact" in caplog.text
  checkpoints.save(3, SMALL, {})
  checkpoints.close()
  assert checkpoints.sealed() == [1, 3]


def test_room_is_looked_at_before_writing(tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, SMALL, {})
  checkpoints.wait()
  monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5000, 5000))
  with pytest.raises(CheckpointError, match=r"not enough free space\n.*5,000 bytes free") as caught:
    checkpoints.save(2, BIG, {})
  assert told(caught.value, tmp_path), str(caught.value)
  assert [p.name for p in tmp_path.iterdir()] == ["1"]
  checkpoints.close()


def test_a_directory_that_cannot_be_made(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(CheckpointError, match=r"could not be written.*\n.*no earlier step"):
    Checkpoints(tmp_path / "file" / "c").save(1, SMALL, {})
  with pytest.raises(CheckpointError, match="is a file"):
    Checkpoints(tmp_path / "file")


@pytest.mark.parametrize("broken", ["rename", "discard"])
def test_failing_deletion_harms_nothing(tmp_path, monkeypatch, caplog, broken):
  """Retention that cannot delete says so; the new step and all older ones are good."""
  checkpoints = Checkpoints(tmp_path, keep=1)
  checkpoints.save(1, SMALL, {})
  checkpoints.wait()

  def refuse(*_):
    raise PermissionError(errno.EROFS, "Read-only file system")

  monkeypatch.setattr(seal, {"rename": "_rename", "discard": "discard"}[broken], refuse)
  checkpoints.save(2, SMALL, {})
  checkpoints.wait()
  assert "older checkpoints could not be deleted: Read-only file system" in caplog.text
  monkeypatch.undo()
  assert checkpoints.sealed() == [1, 2]
  assert checkpoints.latest_good() == 2
