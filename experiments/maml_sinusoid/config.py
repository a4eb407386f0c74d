"""How fast does a network learn a new sine wave after each way of training on many? See README.md beside this file."""

from configs.maml_sinusoid import get_config
from experiments.measures import last

__all__ = ["CURVES", "MEASURES", "get_config", "sweep"]
MEASURES = {f"MSE after {k} steps": last(f"eval/loss_after_{k}_step{'' if k == 1 else 's'}") for k in (0, 1, 5, 10)}
CURVES = ["eval/loss_after_1_step"]


def sweep(add):
  """Each method at the published protocol; Reptile at its own (other phases, 30k updates)."""
  for seed in (0, 1, 2):
    for method in ("meta_sgd", "maml", "fomaml", "anil", "joint", "reptile"):
      add(method, {"train.seed": seed}, arg=method)
