"""The machine that every test sees: the CPU as eight devices, so that meshes can be tested anywhere, and one cache of
prepared data and compiled programs for all tests and the processes that they start.

Tests compile much and run little, so programs are compiled the quick way: without LLVM's optimisations, in a third of
the time, and up to jax 0.10 in one piece and by XLA's older emitters, in a fifth of that. Give a flag in XLA_FLAGS to
have it otherwise. Two things cost a thirtieth each and help no test: frequent rounds of the garbage collector over all
that tracing holds, and Python stacks in programs.
"""

import gc
import importlib.metadata
import os
import pathlib

CACHE = pathlib.Path(__file__).resolve().parents[1] / ".jax_cache"

gc.set_threshold(50_000, 50, 50)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
os.environ.setdefault("LLM_JAX_CACHE", str(CACHE))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(os.environ["LLM_JAX_CACHE"], "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
FLAGS = {"xla_force_host_platform_device_count": 8, "xla_backend_optimization_level": 0}
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones stop at flags they do not know
  FLAGS |= {"xla_cpu_use_fusion_emitters": "false", "xla_cpu_parallel_codegen_split_count": 1}
for flag, value in FLAGS.items():
  if flag not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{flag}={value}".strip()
