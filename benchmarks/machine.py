"""What a benchmark's figures were measured on, as every result file says it.

Imports nothing that an environment of PyTorch alone lacks: drivers are also run there, as workers.
"""

import os
import platform
from typing import Any


def describe() -> dict[str, Any]:
  """Processor, cores, the load before the first measurement, operating system and Python of this process."""
  from llm_jax.core import processor

  return dict(processor=processor.described("model name") or platform.processor() or "unknown", cores=os.cpu_count(),
              load_before=round(os.getloadavg()[0], 2), system=platform.platform(), python=platform.python_version())
