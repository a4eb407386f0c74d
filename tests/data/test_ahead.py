"""An iterator that is one item ahead gives what the plain one gives, when it gives it, and ends as it does."""

import threading

import pytest

from llm_jax.data.ahead import one_ahead


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_items_come_once_and_in_order(count):
  assert list(one_ahead(range(count))) == list(range(count))


def test_the_next_item_is_made_while_one_is_used_and_no_other():
  made = {i: threading.Event() for i in range(5)}

  def items():
    for i in made:
      made[i].set()
      yield i
  ahead = one_ahead(items())
  assert next(ahead) == 0 and made[1].wait(10) and not made[2].wait(0.05)
  assert next(ahead) == 1 and made[2].wait(10)


def test_an_error_is_raised_where_its_item_would_come():
  def items():
    yield "first"
    raise ValueError("the second")
  ahead = one_ahead(items())
  assert next(ahead) == "first"
  with pytest.raises(ValueError, match="the second"):
    next(ahead)


def test_closing_it_leaves_no_thread_and_makes_nothing_more():
  made, before = [], threading.active_count()

  def items():
    for i in range(100):
      made.append(i)
      yield i
  ahead = one_ahead(items())
  next(ahead)
  ahead.close()
  assert threading.active_count() == before and len(made) <= 2
