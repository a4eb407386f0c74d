"""Does rarity-ordered text help, and is it the rarity? See README.md beside this file."""

from configs.curriculum_rarity import get_config
from experiments.measures import at_step, last

__all__ = ["CURVES", "MEASURES", "get_config", "sweep"]
STEPS = 366  # half the run of configs/curriculum_length.py: 750,000 tokens
MEASURES = {"validation loss at 33 %": at_step("eval/loss", 122), "validation loss at the end": last("eval/loss")}
CURVES = ["eval/loss"]


def sweep(add):
  """Three seeds of the rarity order, of its random-pacing control and of no order."""
  for seed in (0, 1, 2):
    for order in ("easy_first", "random", "none"):
      add(order, {"train.seed": seed, "train.steps": STEPS}, arg=order)
