"""How much of a batch is kept by a curriculum that selects: a share by pacing, checked. RHO-LOSS and Rho-1 keep one."""

from llm_jax.core.errors import ConfigError
from llm_jax.curriculum import pacing as pacings
from llm_jax.curriculum.pacing import Pacing


def paced(pacing: str | dict | list, *, share: float, start: float | None, until: float, steps: int) -> Pacing:
  """The kept share of every step, from `start` (None: `share` throughout) to `share`.

  Raises:
    ConfigError: a share out of range.
  """
  first = share if start is None else start
  if not (0 < share <= 1 and 0 < first <= 1):
    raise ConfigError("config.curriculum.share", f"shares from {first:g} to {share:g}", accepted="above 0, at most 1")
  return pacings.build(pacing, start=first, end=share, until=until, steps=steps, key="config.curriculum.pacing")
