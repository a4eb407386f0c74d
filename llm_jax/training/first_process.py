"""What process 0 decides, known to every process of a run."""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils


def decided(decide: Callable[[], int]) -> int:
  """The number that process 0 computes, on every process; a plain call when there is only one."""
  if jax.process_count() == 1:
    return decide()
  number = decide() if jax.process_index() == 0 else 0
  return int(multihost_utils.broadcast_one_to_all(np.int32(number)))
