"""Does growing dimensions and points remove the plateau of in-context regression? See README.md beside this file."""

from configs.curriculum_regression import get_config
from experiments.measures import at_step, first_step

__all__ = ["CURVES", "MEASURES", "get_config", "sweep"]
MEASURES = {"first step below .8": first_step("eval/error", below=0.8),
            "first step below .6": first_step("eval/error", below=0.6),
            "error / d at 2,500": at_step("eval/error", 2_500), "error / d at 6,000": at_step("eval/error", 6_000)}
CURVES = ["eval/error"]


def sweep(add):
  """Three seeds with and without the curriculum at the rate of the claim, two of each at a lower one."""
  for seed in (0, 1, 2):
    for arm in ("curriculum", "none"):
      add(f"{arm}, rate 1e-3", {"train.seed": seed}, arg=arm)
  for seed in (0, 1):
    for arm in ("curriculum", "none"):
      add(f"{arm}, rate 3e-4", {"train.seed": seed, "optimizer.peak": 3e-4}, arg=arm)
