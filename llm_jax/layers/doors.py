"""What the doors of this room (`linear`, `attend`) ask before they choose a form: platform, mesh, derivatives."""

import jax
from jax.sharding import Mesh

from llm_jax.core.derivatives import plain
from llm_jax.parallel import rules


def platform() -> str:
  """'cpu', 'gpu' or 'tpu': of the active mesh, which may be compiled for from another machine, else of this process."""
  active = rules.active()
  here = active is None or not isinstance(active.mesh, Mesh)  # an abstract mesh has no devices
  name = jax.default_backend() if here else active.mesh.devices.flat[0].platform  # type: ignore[union-attr]
  return "gpu" if name in ("cuda", "rocm") else name


def partitioned() -> bool:
  """Whether the compiler splits what is traced here over several devices."""
  active = rules.active()
  return active is not None and active.mesh.size > 1


def tpu_forms() -> bool:
  """Whether forms that suit a TPU's compiler may be taken here."""
  return platform() == "tpu" and not plain()


def cpu_forms() -> bool:
  """Whether hand-ordered forms for one CPU device may be taken here."""
  return platform() == "cpu" and not partitioned() and not plain()
