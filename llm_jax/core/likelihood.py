"""Which of an objective's numbers is the likelihood of the data: perplexity and bits per byte are of that one."""

from collections.abc import Mapping


def nats(means: Mapping[str, float]) -> float:
  """Nats per target: the loss, without what an objective adds to the negative log-likelihood (label smoothing, z-loss)
  where it says both.

  means: {'loss', 'nll', ...}: means over targets.
  """
  return means.get("nll", means["loss"])
