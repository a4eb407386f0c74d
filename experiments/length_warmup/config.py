"""Do short rows first pay at equal tokens, and does it last when the learning rate is tuned? See README.md."""

from configs.curriculum_length import get_config
from experiments.measures import first_step, last

__all__ = ["CURVES", "MEASURES", "get_config", "sweep"]
MEASURES = {"validation loss, nats per byte": last("eval/loss"),
            "first step below 2.1": first_step("eval/loss", below=2.1)}
CURVES = ["eval/loss"]


def sweep(add):
  """Three seeds at the middle rate; one seed of each arm at the other two."""
  for seed in (0, 1, 2):
    for arm in ("warmup", "full", "anti"):
      add(f"{arm}, 5e-3", {"train.seed": seed}, arg=arm)
  for peak in (2e-3, 1e-2):
    for arm in ("warmup", "full"):
      add(f"{arm}, {peak:g}", {"optimizer.peak": peak}, arg=arm)
