"""Devices that are not here: a TPU slice by name, a number of GPUs, or what this process has.

`v5p:4x4x4` gives 64 device descriptions that the real TPU compiler (libtpu) accepts on any Linux machine; no TPU is
touched. GPUs have no such compiler here, so they are a number and a data sheet, for the estimate alone.
"""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

from llm_jax.core.errors import ConfigError, nearest_name
from llm_jax.planning.hardware import GPUS, TPUS, Chip

SPELLING = "v5e:2x4, v5p:4x4x4, v6e:4x4, Google's names (v5p-128), h100:8, a100:64, h200:8, b200:8, or local"
AXES = {"v4": 3, "v5p": 3, "v5e": 2, "v6e": 2}
CORES = {"v4": 2, "v5p": 2}  # counted by Google's names; of the others a name counts chips
# libtpu asks a cloud machine who it is and holds a lock; here it only compiles.
ENVIRONMENT = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
               "TPU_ACCELERATOR_TYPE": "v5p-8", "TF_CPP_MIN_LOG_LEVEL": "2"}


@dataclasses.dataclass(frozen=True)
class Topology:
  """name as given; kind: 'tpu', 'gpu' or 'local'; chip: None for a local CPU; shape: chips along each physical axis."""

  name: str
  kind: str
  chip: Chip | None
  shape: tuple[int, ...]

  @property
  def count(self) -> int:
    """Devices."""
    return math.prod(self.shape)

  @property
  def hosts(self) -> int:
    """Machines that hold them."""
    return 1 if self.chip is None else math.ceil(self.count / self.chip.per_host)

  def devices(self) -> list[Any]:
    """Descriptions to build a mesh of.

    Raises:
      ConfigError: libtpu is not installed or does not know the topology.
    """
    import jax

    if self.kind == "local":
      return list(jax.devices())
    if self.kind != "tpu":
      raise ConfigError("--topology", f"{self.name} can be estimated, not compiled for", accepted="a TPU topology")
    if importlib.util.find_spec("libtpu") is None:
      raise ConfigError("--topology", f"{self.name} needs the TPU compiler, and libtpu is not installed",
                        accepted="pip install 'llm_jax[plan]' (Linux, no TPU needed), or a GPU topology or local")
    from jax.experimental import topologies

    for name, value in ENVIRONMENT.items():
      os.environ.setdefault(name, value)
    options: dict[str, Any] = {"wrap": self.wraps()}
    if min(self.shape[:2]) < 2:  # less than the 2 x 2 chips that libtpu counts for a host
      options["chips_per_host_bounds"] = (*(min(size, 2) for size in self.shape[:2]), 1)
    try:
      found = topologies.get_topology_desc(platform="tpu", topology_name=self.name, **options)
    except Exception as e:
      raise ConfigError("--topology", f"{self.name}: {str(e).splitlines()[0]}", accepted=SPELLING) from None
    return list(found.devices)

  def wraps(self) -> tuple[bool, ...]:
    """Along which physical axes the links close to a ring; without them a gather compiles to something slower."""
    if self.name.startswith(("v4", "v5p")):
      return tuple(size % 4 == 0 for size in self.shape)
    whole = len(self.shape) == 2 and self.shape == (16, 16)
    return (whole, whole, False)


def parse(name: str) -> Topology:
  """The topology of a name.

  Raises:
    ConfigError: it is spelt otherwise than SPELLING.
  """
  import jax

  if name == "local":
    return Topology(name, "local", None, (jax.device_count(),))
  family, _, shape = named(name.lower()).partition(":")
  known = {**TPUS, **GPUS}
  if family not in known or not re.fullmatch(r"\d+(x\d+)*", shape):
    raise ConfigError("--topology", f"got {name!r}", accepted=SPELLING, nearest=nearest_name(family, known))
  sizes = tuple(int(n) for n in shape.split("x"))
  wanted = AXES.get(family, 1)
  if len(sizes) != wanted:
    raise ConfigError("--topology", f"{name!r} has {len(sizes)} axes, {family} has {wanted}", accepted=SPELLING)
  if min(sizes) < 1:
    raise ConfigError("--topology", f"{name!r} has no devices", accepted=SPELLING)
  return Topology(f"{family}:{shape}", "tpu" if family in TPUS else "gpu", known[family], sizes)


def named(name: str) -> str:
  """'v5p-128', as Google sells it, as 'v5p:4x4x4': so many chips, a power of two, as near to a cube or a square as they
  go. Any other name as it is."""
  found = re.fullmatch(r"(v\de?|v\dp|v5litepod)-(\d+)", name)
  family = {"v5litepod": "v5e"}.get(found.group(1), found.group(1)) if found else ""
  if found is None or family not in AXES:
    return name
  chips, axes = int(found.group(2)) // CORES.get(family, 1), AXES[family]
  doublings = chips.bit_length() - 1
  if chips < 1 or chips != 1 << doublings:
    return name
  sizes = sorted((1 << (doublings + i) // axes for i in range(axes)), key=lambda size: (size == 1, size))
  return f"{family}:{'x'.join(map(str, sizes))}"
