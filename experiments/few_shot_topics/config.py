"""How well are documents of five new topics told apart from one or five examples? See README.md beside this file."""

from configs.maml_topics import get_config
from experiments.measures import last

__all__ = ["CURVES", "MEASURES", "get_config", "sweep"]
MEASURES = {"accuracy": last("eval/accuracy")}
CURVES = ["eval/accuracy"]


def sweep(add):
  """Each method with one and five shots, three seeds where something is trained; one run in context, one with permuted
  labels."""
  for shots in (1, 5):
    add(f"centroid, {shots} shots", {"data.shots": shots}, arg="centroid")
    for method in ("untrained", "anil", "maml", "prototypical"):
      for seed in (0, 1, 2):
        add(f"{method}, {shots} shots", {"data.shots": shots, "train.seed": seed}, arg=method)
  add("in context, 1 shots", {"data.shots": 1, "train.seed": 0}, arg="in_context")
  add("permuted labels, 1 shots", {"data.shots": 1, "data.permute_query": True}, arg="prototypical")
