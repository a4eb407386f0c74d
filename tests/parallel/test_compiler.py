"""What the compiler is told on a CPU: other kernels where vectors are narrow, nothing where the user has said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from llm_jax.parallel import compiler

ZEN_3 = frozenset({"sse2", "avx", "avx2", "fma"})


def one_device():
  return Mesh(np.array(jax.devices()[:1]), ("data",))


@pytest.fixture(name="processor")
def _processor(monkeypatch):
  monkeypatch.delenv("XLA_FLAGS", raising=False)
  return lambda flags: monkeypatch.setattr(compiler, "processor_flags", lambda: frozenset(flags))


@pytest.mark.parametrize("flags, wanted", [
    (ZEN_3, compiler.EIGEN), (ZEN_3 | {"avx512f"}, None), (frozenset({"sse2"}), None), (frozenset(), None)])
def test_kernels_follow_the_width_of_vectors(processor, flags, wanted):
  processor(flags)
  assert compiler.options(one_device()) == wanted


def test_what_the_user_told_xla_stays(processor, monkeypatch):
  processor(ZEN_3)
  monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT")
  assert compiler.options(one_device()) is None
  monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
  assert compiler.options(one_device()) == compiler.EIGEN


def test_the_other_kernels_multiply_and_give_the_same_numbers():
  x, y = jax.random.normal(jax.random.key(0), (2, 64, 64))
  multiply = jax.jit(jnp.dot, compiler_options=compiler.EIGEN).lower(x, y).compile()
  assert "dot(" in multiply.as_text() and "ynn" not in multiply.as_text()
  np.testing.assert_allclose(multiply(x, y), np.asarray(x) @ np.asarray(y), rtol=1e-5, atol=1e-5)


def test_this_machines_flags_are_read_once_and_are_words():
  flags = compiler.processor_flags()
  assert flags is compiler.processor_flags()
  assert all(flag and not any(c.isspace() for c in flag) for flag in flags)
