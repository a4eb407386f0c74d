"""What the compiler is told beside the program, by platform."""

from jax.sharding import Mesh

# Products whose operand is split are otherwise cut into windows that travel round the devices: on a small model
# hundreds of little products in place of one, nearly twice the cycles (124M on eight v5e, measured by the compiler).
OPTIONS: dict[str, dict[str, str]] = {"tpu": {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}}


def options(mesh: Mesh) -> dict[str, str] | None:
  """Compiler options for programs on this mesh; None for none."""
  return OPTIONS.get(mesh.devices.flat[0].platform) if mesh.size > 1 else None
