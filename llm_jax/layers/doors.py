"""What the doors of this room (`linear`, `attend`) ask before they choose a form: platform, mesh, derivatives."""

import jax

from llm_jax.core.derivatives import plain
from llm_jax.parallel import rules


def platform() -> str:
  """'cpu', 'gpu' or 'tpu': of the active mesh, which may be compiled for from another machine, else of this process."""
  active = rules.active()
  name = jax.default_backend() if active is None else active.mesh.devices.flat[0].platform
  return "gpu" if name in ("cuda", "rocm") else name


def partitioned() -> bool:
  """Whether the compiler splits what is traced here over several devices."""
  active = rules.active()
  return active is not None and active.mesh.size > 1


def cpu_forms() -> bool:
  """Whether hand-ordered forms for one CPU device may be taken here."""
  return platform() == "cpu" and not partitioned() and not plain()
