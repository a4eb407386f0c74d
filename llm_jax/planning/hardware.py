"""What the chips can do: memory, bandwidths, clocks. Peaks of arithmetic are in training/throughput.py.

Sources: Google Cloud's "System architecture" page of each TPU version (memory, bandwidth, interconnect per chip) and
clocks as the TPU compiler's estimate of an 8192^3 matrix product implies them; NVIDIA's data sheets of the SXM parts.
"""

import dataclasses
import re

from llm_jax.training.throughput import peak_flops_per_second

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One JAX device. memory in bytes that a program can have; bandwidths in bytes/s; link: to the neighbours, one way,
  all links together; network: between hosts, per device; clock: Hz of the compiler's cycles, None without them;
  per_host: devices that share a host; near: devices that `link` joins."""

  kind: str
  memory: float
  bandwidth: float
  link: float
  network: float
  clock: float | None = None
  per_host: int = 4
  near: int = 8

  @property
  def peak(self) -> float:
    """Dense bfloat16 FLOP/s."""
    peak = peak_flops_per_second(self.kind)
    assert peak is not None, self.kind
    return peak


TPUS = {
    "v4": Chip("TPU v4", 31.25 * GIB, 1.228e12, 270e9, 6e9, 1.05e9, 4, 4096),
    "v5e": Chip("TPU v5 lite", 15.75 * GIB, 0.819e12, 180e9, 6e9, 1.5e9, 4, 256),
    "v5p": Chip("TPU v5", 95.74 * GIB, 2.765e12, 540e9, 6e9, 1.75e9, 4, 8960),
    "v6e": Chip("TPU v6 lite", 31.24 * GIB, 1.640e12, 360e9, 12e9, 1.75e9, 4, 256),
}
GPUS = {
    "a100": Chip("A100", 79.0 * GIB, 2.039e12, 300e9, 25e9, None, 8, 8),
    "h100": Chip("H100", 79.0 * GIB, 3.35e12, 450e9, 50e9, None, 8, 8),
    "h200": Chip("H200", 139.0 * GIB, 4.8e12, 450e9, 50e9, None, 8, 8),
    "b200": Chip("B200", 178.0 * GIB, 7.7e12, 900e9, 50e9, None, 8, 8),
}


def of_device(kind: str) -> Chip | None:
  """The chip of a `jax.Device.device_kind`; None if there is no data sheet of it here."""
  if kind in (found := {chip.kind: chip for chip in TPUS.values()}):
    return found[kind]
  whole = not re.search(r"\bMIG\b", kind)
  return next((chip for chip in GPUS.values() if whole and re.search(rf"\b{chip.kind}\b", kind)), None)
