"""An iterator that is one item ahead gives what the plain one gives, makes it when told, and ends as it does."""

import threading
from collections.abc import Generator

import pytest

from llm_jax.data.ahead import Ahead


@pytest.mark.parametrize("count", [0, 1, 2, 50])
@pytest.mark.parametrize("prepare", [0, 1, 3])
def test_items_come_once_and_in_order(count, prepare):
  ahead, found = Ahead(i for i in range(count)), []
  for item in ahead:
    found.append(item)
    for _ in range(prepare):
      ahead.prepare()
  ahead.close()
  assert found == list(range(count))


def watched(count: int) -> tuple[Generator[int, None, None], list[threading.Event]]:
  """Numbers, and an event for each that says that it has been made."""
  made = [threading.Event() for _ in range(count)]

  def items():
    for i, event in enumerate(made):
      event.set()
      yield i
  return items(), made


def test_one_item_is_made_ahead_when_told_and_not_before():
  items, made = watched(4)
  ahead = Ahead(items)
  assert next(ahead) == 0 and not made[1].wait(0.05)
  ahead.prepare()
  assert made[1].wait(10) and not made[2].wait(0.05)
  assert next(ahead) == 1 and next(ahead) == 2
  ahead.close()


def test_where_nothing_can_be_made_early_it_is_made_when_asked_for():
  items, made = watched(3)
  ahead = Ahead(items, early=False)
  assert next(ahead) == 0
  ahead.prepare()
  assert not made[1].wait(0.05)
  assert list(ahead) == [1, 2]
  ahead.close()


def test_an_error_is_raised_where_its_item_would_come():
  def items():
    yield "first"
    raise ValueError("the second")
  ahead = Ahead(items())
  assert next(ahead) == "first"
  ahead.prepare()
  with pytest.raises(ValueError, match="the second"):
    next(ahead)
  ahead.close()


def test_closing_it_leaves_no_thread_and_closes_the_iterator():
  before, closed = threading.active_count(), []

  def items():
    try:
      yield from range(100)
    finally:
      closed.append(True)
  ahead = Ahead(items())
  next(ahead)
  ahead.prepare()
  ahead.close()
  ahead.close()
  assert threading.active_count() == before and closed == [True]
