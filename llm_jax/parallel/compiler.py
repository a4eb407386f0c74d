"""What the compiler is told beside the program, by platform."""

import functools
import os

from jax.sharding import Mesh

from llm_jax.core import processor

# Products whose operand is split are otherwise cut into windows that travel round the devices: on a small model
# hundreds of little products in place of one, nearly twice the cycles (124M on eight v5e, measured by the compiler).
SPLIT_TPU = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}

# A CPU's products come from YNNPACK, which is made for AVX-512: without it the same step takes 0.90 of the time with
# XLA's other kernels, Eigen's, in float32 and 0.70 in bfloat16 (6 x 384, two threads of an AMD Zen 3; 0.93 and 0.76 at
# 4 x 128; on jax 0.12 0.98 and 0.82). With AVX-512 YNNPACK is ahead, and for a few rows, as in decoding, anywhere.
EIGEN = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}  # only sums are YNNPACK's then


def options(mesh: Mesh) -> dict[str, str] | None:
  """Compiler options for a training or evaluation step on this mesh; None for none. XLA_FLAGS comes before them."""
  platform = mesh.devices.flat[0].platform
  if platform == "tpu" and mesh.size > 1:
    return SPLIT_TPU
  told = any(name in os.environ.get("XLA_FLAGS", "") for name in EIGEN)
  return EIGEN if platform == "cpu" and not told and narrow_vectors(processor_flags()) else None


def narrow_vectors(flags: frozenset[str]) -> bool:
  """Whether a processor with these flags is an x86 without AVX-512."""
  return "avx2" in flags and "avx512f" not in flags


@functools.cache
def processor_flags() -> frozenset[str]:
  """What this machine's processor can do, if it is an x86 under Linux; empty elsewhere."""
  return frozenset(processor.described("flags").split())
