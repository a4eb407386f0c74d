"""Does the order of the same rows decide when a network learns a parity? See README.md beside this file."""

from configs.curriculum_parity import ORDERS, get_config
from experiments.measures import first_step, last

__all__ = ["CURVES", "MEASURES", "get_config", "sweep"]
MEASURES = {"first step above 90 % (dense)": first_step("eval/accuracy", above=0.9),
            "accuracy at the end (dense)": last("eval/accuracy"), "accuracy at the end (sparse)":
            last("eval/accuracy/sparse")}
CURVES = ["eval/accuracy", "eval/accuracy/sparse"]


def sweep(add):
  """Three seeds of each order."""
  for order in ORDERS:
    for seed in (0, 1, 2):
      add(order, {"train.seed": seed}, arg=order)
