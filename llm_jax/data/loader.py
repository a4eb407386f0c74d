"""Batches ahead of the training loop: grain runs `source.take` in a background thread or in worker processes.

Element i of the pipeline is the batch of step start + i, so 0, 1 or 2 workers give the same stream, any step is
reached at once, and there is no iterator state to save. A host takes its own rows of the global batch and no others.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from llm_jax.core.errors import ConfigError, LlmJaxError
from llm_jax.core.types import Batch, DataSource, Plan

PlanOf = Callable[[int], Plan]
FOR_EVER = 1 << 40


class Loader:
  """One host's way to the batches of a source.

  >>> loader = Loader(source, workers=2)
  >>> with loader.stream(plan_of, start=resumed_step, stop=steps) as batches:
  ...   for step, plan, batch in batches: ...
  """

  def __init__(self, source: DataSource, *, host: int = 0, hosts: int = 1, workers: int = 0, prefetch: int = 2):
    """host, hosts: number of this process and of all; workers: processes that make batches, 0 for a thread of this
    one; prefetch: batches ready ahead of the loop (per worker)."""
    if workers < 0 or prefetch < 1:
      raise ConfigError("config.data_workers" if workers < 0 else "config.prefetch", f"got {min(workers, prefetch)}",
                        accepted="workers >= 0, prefetch >= 1")
    self.source, self.host, self.hosts, self.workers, self.prefetch = source, host, hosts, workers, prefetch

  def take(self, step: int, plan: Plan) -> Batch:
    """This host's rows of one step, made now: for plans that are known only when the step comes."""
    return self.source.take(step, plan, rows_of_host(plan.batch, self.host, self.hosts))

  def stream(self, plan_of: PlanOf, *, start: int = 0, stop: int | None = None) -> "Stream":
    """(step, plan, this host's rows) for steps start <= step < stop; the same arrays as `take`.

    plan_of: step -> Plan, pure; must pickle if there are workers (functools.partial of a bound method does).
    """
    return Stream(self, plan_of, start, stop)


class Stream(Iterator[tuple[int, Plan, Batch]]):
  """What `Loader.stream` returns; use it in a `with`, or call `close`."""

  def __init__(self, loader: Loader, plan_of: PlanOf, start: int, stop: int | None):
    import grain  # 1 s to import
    from absl import flags

    if loader.workers and not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # grain's workers read flags, also where no door has parsed any
    self._plan_of, self._step = plan_of, start
    steps = _Steps(loader, plan_of, start, max(0, stop - start) if stop is not None else FOR_EVER)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=loader.prefetch)
    dataset = grain.MapDataset.source(steps).to_iter_dataset(options)
    if loader.workers:
      dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(
          num_workers=loader.workers, per_worker_buffer_size=loader.prefetch))
    self._copy = loader.workers > 0
    self._iterator: Any = iter(dataset)

  def __next__(self) -> tuple[int, Plan, Batch]:
    if self._iterator is None:
      raise StopIteration
    made = next(self._iterator)
    if "error" in made:
      self.close()
      kind, arguments, fields = made["error"]
      error = kind.__new__(kind, *arguments)
      error.__dict__.update(fields)
      raise error
    step, self._step = self._step, self._step + 1
    # What comes from a worker lies in shared memory that grain takes back.
    batch = {k: np.array(v) for k, v in made.items()} if self._copy else made
    return step, self._plan_of(step), batch

  def close(self) -> None:
    """Stops thread and workers; later calls do nothing."""
    iterator, self._iterator = self._iterator, None
    if iterator is not None:
      iterator.close()

  def __enter__(self) -> "Stream":
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()


class _Steps:
  """A random-access source for grain: element i is the batch of step start + i."""

  def __init__(self, loader: Loader, plan_of: PlanOf, start: int, count: int):
    self._loader, self._plan_of, self._start, self._count = loader, plan_of, start, count

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, i: Any) -> dict[str, Any]:
    step = self._start + int(i)
    try:
      return self._loader.take(step, self._plan_of(step))
    except LlmJaxError as e:  # carried as its parts: grain would wrap it, and not every exception pickles
      return {"error": (type(e), e.args, vars(e))}


def rows_of_host(batch: int, host: int, hosts: int) -> slice:
  """Rows [host * batch / hosts, (host + 1) * batch / hosts) of the global batch.

  Raises:
    ConfigError: the hosts do not divide the batch.
  """
  if batch % hosts:
    raise ConfigError("config.batch", f"{batch} examples cannot be shared by {hosts} hosts",
                      accepted=f"a multiple of {hosts}")
  rows = batch // hosts
  return slice(host * rows, (host + 1) * rows)
