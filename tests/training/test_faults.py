"""Faults happen when and where they are asked for, and nowhere else."""

import math

import jax
import jax.numpy as jnp
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.training import faults


def test_nothing_without_the_variable(monkeypatch):
  monkeypatch.delenv(faults.VARIABLE, raising=False)
  faults.inject(0, 0)
  assert faults.loss_scale(jnp.int32(0)) is None


def test_a_host_fault_hits_one_process_at_one_step(monkeypatch):
  monkeypatch.setenv(faults.VARIABLE, "exception:1:5")
  for step in range(10):
    faults.inject(step, 0)
    if step != 5:
      faults.inject(step, 1)
  with pytest.raises(faults.InjectedFaultError):
    faults.inject(5, 1)
  assert faults.loss_scale(jnp.int32(5)) is None


@pytest.mark.parametrize("kind, bad", [("nan", math.nan), ("spike", 1e4)])
def test_a_loss_fault_inside_the_compiled_step(monkeypatch, kind, bad):
  monkeypatch.setenv(faults.VARIABLE, f"{kind}:0:3-4")
  scale = jax.jit(lambda step: faults.loss_scale(step))
  got = [float(scale(jnp.int32(s))) for s in range(6)]
  assert got[:3] == [1, 1, 1] and got[5] == 1
  assert all(g == bad or (math.isnan(g) and math.isnan(bad)) for g in got[3:5])


@pytest.mark.parametrize("text, words", [("nan", "is not a fault"), ("kil:0:1", "unknown kind 'kil'"),
                                         ("kill:0:x", "is not a fault")])
def test_mistakes_are_named(monkeypatch, text, words):
  monkeypatch.setenv(faults.VARIABLE, text)
  with pytest.raises(ConfigError, match=words):
    faults.wanted()
