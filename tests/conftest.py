"""The machine that every test sees: the CPU as eight devices, so that meshes can be tested anywhere, and one cache of
prepared data and compiled programs for all tests and the processes that they start.

Programs are compiled without LLVM's optimisations, which takes a third of the time; tests compile much and run little.
Give xla_backend_optimization_level in XLA_FLAGS to have it otherwise.
"""

import os
import pathlib

CACHE = pathlib.Path(__file__).resolve().parents[1] / ".jax_cache"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("LLM_JAX_CACHE", str(CACHE))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(os.environ["LLM_JAX_CACHE"], "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
for flag, value in (("xla_force_host_platform_device_count", 8), ("xla_backend_optimization_level", 0)):
  if flag not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{flag}={value}".strip()
