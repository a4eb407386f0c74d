"""The machine that every test sees: the CPU as eight devices, so that meshes can be tested anywhere, and one cache of
prepared data and compiled programs for all tests and the processes that they start.
"""

import os
import pathlib

CACHE = pathlib.Path(__file__).resolve().parents[1] / ".jax_cache"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("LLM_JAX_CACHE", str(CACHE))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(os.environ["LLM_JAX_CACHE"], "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
