"""These tests compile many small programs once: compiling fast matters more than running fast."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def compile_fast():
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)
