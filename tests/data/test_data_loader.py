"""The loader: one stream for any workers and hosts, from any step; errors arrive and threads end."""

import functools
import threading

import numpy as np
import pytest

from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.types import Plan
from llm_jax.data import text_folder
from llm_jax.data.loader import Loader, rows_of_host


def plan_of(step: int, batch: int = 8) -> Plan:
  """Length and mixture change with the step."""
  return Plan(batch, 16 if step < 5 else 32, mixture={"a": 0.5, "b": 0.5} if step % 2 else None)


@pytest.fixture
def source(context, folder):
  return text_folder.build(context, path=str(folder), tokenizer={"name": "bytes"}, validation_fraction=0.1).train


def collect(loader, start, stop, plans=plan_of):
  with loader.stream(plans, start=start, stop=stop) as stream:
    return [(step, plan, {k: v.tobytes() for k, v in batch.items()}) for step, plan, batch in stream]


def test_stream_equals_take(source):
  loader = Loader(source)
  for step, plan, batch in collect(loader, 0, 8):
    assert plan == plan_of(step)
    assert batch == {k: v.tobytes() for k, v in source.take(step, plan).items()}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(source, workers):
  assert collect(Loader(source, workers=workers), 3, 12) == collect(Loader(source), 3, 12)


def test_resume_at_any_step(source):
  loader = Loader(source)
  whole = collect(loader, 0, 10)
  for start in (1, 4, 9):
    assert collect(loader, start, 10) == whole[start:]


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_change_nothing(source, hosts):
  parts = [[b for _, _, b in Loader(source, host=h, hosts=hosts).stream(plan_of, stop=4)] for h in range(hosts)]
  whole = [b for _, _, b in Loader(source).stream(plan_of, stop=4)]
  for step, batch in enumerate(whole):
    for name in batch:
      assert (np.concatenate([p[step][name] for p in parts]) == batch[name]).all()


def test_hosts_must_divide_the_batch():
  assert rows_of_host(8, 1, 2) == slice(4, 8)
  with pytest.raises(ConfigError, match="8 examples cannot be shared by 3 hosts"):
    rows_of_host(8, 0, 3)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("plans, error", [(functools.partial(plan_of, batch=100_000), DataError),
                                          (functools.partial(plan_of, batch=9), ConfigError)])
def test_errors_arrive_as_they_are(source, workers, plans, error):
  with Loader(source, hosts=2, workers=workers).stream(plans, start=1, stop=3) as stream:
    with pytest.raises(error, match=r"batch of 100000|cannot be shared") as e:
      next(stream)
    assert e.value.exit_code == error.exit_code
    assert next(stream, None) is None


def test_close_ends_the_threads(source):
  before = threading.active_count()
  for _ in range(3):
    stream = Loader(source).stream(plan_of)
    next(stream)
    stream.close()
    stream.close()
    assert next(stream, None) is None
  for thread in threading.enumerate():
    if "grain" in thread.name:
      thread.join(5)
  assert threading.active_count() <= before


def test_an_endless_stream_goes_on(source):
  with Loader(source).stream(plan_of, start=10**9) as stream:
    step, _, batch = next(stream)
  assert step == 10**9 and batch["tokens"].shape == (8, 32)
