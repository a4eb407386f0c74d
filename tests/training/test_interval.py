"""A logged mean is over the steps whose number is finite, each number by itself, and older checkpoints go on."""

import dataclasses
import json
import math

from llm_jax.training.interval import Sums
from llm_jax.training.loop import Position

NAN, INF = math.nan, math.inf


def step(loss=2.0, norm=1.0, accuracy=0.9, tokens=8.0):
  return dict(loss=loss, gradient_norm=norm, accuracy=accuracy, target_tokens=tokens, skipped_updates=0.0)


def summed(*steps):
  sums = Sums()
  for values in steps:
    sums.add(values)
  return sums


def test_one_number_that_is_not_finite_biases_no_mean():
  found = summed(*[step(), step(loss=NAN, norm=INF)] * 5).means()
  assert math.isclose(found["accuracy"], 0.9) and found["loss"] == 2.0 and found["gradient_norm"] == 1.0
  found = summed(*[step(), step(norm=INF)] * 5).means()
  assert found["gradient_norm"] == 1.0 and found["loss"] == 2.0


def test_means_are_by_target_tokens():
  found = summed(step(loss=1.0, tokens=2.0), step(loss=4.0, tokens=6.0), step(loss=NAN, tokens=100.0)).means()
  assert found["loss"] == 3.25


def test_what_never_was_finite_is_nan_and_not_missing():
  found = summed(step(loss=NAN), step(loss=INF)).means()
  assert math.isnan(found["loss"]) and found["accuracy"] == 0.9


def test_sums_survive_a_checkpoint_and_those_of_older_ones_are_read():
  sums = summed(step(), step(loss=NAN, accuracy=0.3))
  saved = json.loads(json.dumps(dataclasses.asdict(Position({}, sums=sums))))
  assert Position.from_json(saved).sums == sums
  old = {**saved, "sums": {"values": {"loss": 32.0, "accuracy": 14.4, "skipped_updates": 0.0}, "weight": 16.0}}
  sums = Position.from_json(old).sums
  assert sums.means() == {"loss": 2.0, "accuracy": 0.9, "skipped_updates": 0.0}
  sums.add(step(loss=5.0, tokens=8.0))
  assert sums.means()["loss"] == 3.0
