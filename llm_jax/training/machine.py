"""What a run ran on, for DIR/machine.json: devices, library versions, host. Nothing in it enters the computation."""

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterable
from typing import Any

import jax

import llm_jax
from llm_jax.core import allocator, processor
from llm_jax.training.throughput import peak_flops_per_second

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", allocator.PACKAGE)


def describe() -> dict[str, Any]:
  """Devices, hosts, versions of the libraries that compute, Python, operating system, host CPU and memory."""
  devices = jax.devices()
  kind = devices[0].device_kind
  return {
      "devices": {
          "kind": kind,
          "platform": devices[0].platform,
          "count": len(devices),
          "hosts": jax.process_count(),
          "peak_bfloat16_flops_per_second": peak_flops_per_second(kind),
      },
      "host": {
          "cpu": cpu_name(),
          "cores": os.cpu_count(),
          "memory_bytes": memory_bytes(),
          "allocator": allocator.name(),
          "system": platform.platform(terse=True),
      },
      "python": platform.python_version(),
      "libraries": {"llm_jax": llm_jax.__version__}
                   | versions(LIBRARIES),
      "xla_flags": os.environ.get("XLA_FLAGS", ""),
  }


def cpu_name() -> str:
  """The host CPU's model as the operating system names it."""
  return processor.described("model name") or platform.processor() or platform.machine()


def memory_bytes() -> int | None:
  """Bytes of the host's memory, None where the operating system does not say."""
  try:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  except (ValueError, OSError, AttributeError):
    return None


def versions(names: Iterable[str]) -> dict[str, str]:
  """{name: version} of those libraries that are installed."""
  found = {}
  for name in names:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found
