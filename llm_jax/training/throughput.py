"""Throughput: tokens per second, model FLOPs per second, and their share of what the devices could do (MFU).

MFU counts the FLOPs that the model needs, not those that the hardware did (PaLM, arXiv:2204.02311, appendix B): work
repeated by rematerialisation does not raise it. The peak is always the dense bfloat16 one, also for a float32 run, so
that runs compare; on a device that the table does not know (a CPU, a slice of a GPU) there is no MFU, only FLOP/s.
"""

import dataclasses
import re

# Dense bfloat16 peak per JAX device, FLOP/s: the first pattern found in `jax.Device.device_kind` counts. Sources:
# Google Cloud's "System architecture" page of each TPU version; NVIDIA's data sheets, their sparse figure halved; AMD's
# data sheet. A TPU v2, v3 or 7x chip shows as two devices, so each has half of the chip's peak.
PEAK_FLOPS_PER_SECOND: tuple[tuple[str, float], ...] = (
    (r"TPU v2", 22.5e12),
    (r"TPU v3", 61.5e12),
    (r"TPU v4 lite|TPU v4i", 138e12),
    (r"TPU v4", 275e12),
    (r"TPU v5 ?lite|TPU v5e", 197e12),
    (r"TPU v5", 459e12),  # v5p calls itself "TPU v5"
    (r"TPU v6", 918e12),  # "TPU v6 lite" is v6e, Trillium
    (r"TPU ?v?7", 1_153.5e12),  # "TPU7x", Ironwood: 2,307e12 per chip
    (r"\bA100\b|\bA800\b", 312e12),
    (r"\bL4\b", 121e12),
    (r"\bL40S\b", 362e12),
    (r"\bH20\b", 148e12),
    (r"\bH100 NVL\b", 835.5e12),
    (r"\bH100 PCIe\b", 756.5e12),
    (r"\bH200 NVL\b", 835.5e12),
    (r"\bH100\b|\bH800\b|\bH200\b|\bGH200\b", 989.5e12),
    (r"\bGB200\b|\bGB300\b", 2_500e12),
    (r"\bB200\b|\bB300\b", 2_250e12),
    (r"\bMI300X\b|\bMI325X\b", 1_307.4e12),
)


def peak_flops_per_second(device_kind: str) -> float | None:
  """Dense bfloat16 peak of one device in FLOP/s; None if its kind is unknown or it is a MIG slice of a GPU."""
  if re.search(r"\bMIG\b", device_kind):
    return None
  for pattern, peak in PEAK_FLOPS_PER_SECOND:
    if re.search(pattern, device_kind, re.IGNORECASE):
      return peak
  return None


@dataclasses.dataclass(frozen=True)
class Throughput:
  """Turns counts and wall-clock time into the `train/` throughput numbers.

  device_kind: `jax.devices()[0].device_kind`; device_count: devices of the whole run, over all hosts.
  """

  device_kind: str
  device_count: int

  def measure(self, *, tokens: float, seconds: float, flops_per_token: float) -> dict[str, float]:
    """`train/tokens_per_second`, `train/flops_per_second` and, on a known device, `train/mfu`.

    Args:
      tokens: positions processed in `seconds`, over all devices, padding included.
      seconds: wall-clock seconds they took; evaluation and checkpoints left out.
      flops_per_token: model FLOPs per token, forward and backward; see flops.py.
    """
    rate = tokens / max(seconds, 1e-9)
    values = {"train/tokens_per_second": rate, "train/flops_per_second": rate * flops_per_token}
    peak = peak_flops_per_second(self.device_kind)
    if peak is not None:
      values["train/mfu"] = rate * flops_per_token / (peak * self.device_count)
    return values
