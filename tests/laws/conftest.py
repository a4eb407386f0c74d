"""The run that nothing happens to, made once and compared with by several tests."""

import door
import pytest

from llm_jax.training.good_steps import newest_good


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
  """The workdir of a finished run of tests/laws/tiny_run.py on one device; copy it before changing it."""
  workdir = tmp_path_factory.mktemp("unbroken") / "run"
  outcome = door.spawn(*door.tiny(workdir))
  assert outcome.code == 0, outcome.err
  assert newest_good(workdir / "checkpoints", set_aside=False) == 40
  assert not door.logged_twice(workdir)
  return workdir
