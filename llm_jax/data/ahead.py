"""One item ahead of who asks, made in a thread when told to: the training loop's next batch is copied to the devices
while they compute and the loop waits for them.

Not sooner: a thread that runs beside the loop's own work takes the interpreter from it, and where the devices are the
CPU's own cores, it may be put aside while it has it. Both cost 2 to 5 ms of a step of 180; this costs 0.1.
"""

import concurrent.futures
from collections.abc import Generator, Iterator
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
END: Any = object()


class Ahead(Iterator[Item], Generic[Item]):
  """The items of a generator in their order. `close` it, or its thread stays.

  early: False makes every item when it is asked for, whatever is told: what it is made of is not known before.
  """

  def __init__(self, items: Generator[Item, None, None], *, early: bool = True):
    self._items, self._early = items, early
    self._thread = concurrent.futures.ThreadPoolExecutor(1, "ahead")
    self._following: concurrent.futures.Future[Item] | None = None

  def prepare(self) -> None:
    """Starts to make the next item, unless it is being made or made already."""
    if self._early and self._following is None:
      self._following = self._thread.submit(next, self._items, END)

  def __next__(self) -> Item:
    """The next item; what its making raised is raised here."""
    self.prepare()
    if self._following is None:
      return next(self._items)
    item, self._following = self._following.result(), None
    if item is END:
      raise StopIteration
    return item

  def close(self) -> None:
    """Waits for an item that is being made, then closes the generator; later calls do nothing."""
    self._thread.shutdown()
    self._items.close()
