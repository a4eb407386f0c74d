"""Faults on demand, for the tests of what should survive them: `LLM_JAX_FAULT=kind:process:step`, e.g. `kill:0:12`.

There is no config key for this on purpose; without the variable nothing here does anything, and the compiled step is
the same. `step` may be a range `5-8`.
"""

import os
import signal
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError

VARIABLE = "LLM_JAX_FAULT"
HOST_KINDS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "sigterm": lambda: _terminate(),
    "exception": lambda: _raise(),
    "stuck": lambda: time.sleep(1e6),
    "slow": lambda: time.sleep(2.0),
}
LOSS_KINDS = {"nan": float("nan"), "spike": 1e4}


class InjectedFaultError(RuntimeError):
  """Stands for any bug in user code."""


class Fault(NamedTuple):
  """A parsed LLM_JAX_FAULT: `first` and `last` are steps, inclusive."""

  kind: str
  process: int
  first: int
  last: int


def wanted() -> Fault | None:
  """The fault that the environment asks for.

  Raises:
    ConfigError: it is not `kind:process:step`.
  """
  text = os.environ.get(VARIABLE)
  if not text:
    return None
  try:
    kind, process, steps = text.split(":")
    first, _, last = steps.partition("-")
    fault = Fault(kind, int(process), int(first), int(last or first))
  except ValueError:
    raise ConfigError(VARIABLE, f"{text!r} is not a fault", accepted="kind:process:step, e.g. kill:0:12") from None
  if fault.kind not in HOST_KINDS | LOSS_KINDS:
    raise ConfigError(VARIABLE, f"unknown kind {kind!r}", accepted=", ".join([*HOST_KINDS, *LOSS_KINDS]))
  return fault


def inject(step: int, process_index: int) -> None:
  """Does what a host fault asks for at this step of this process: dies, raises, hangs or is slow."""
  fault = wanted()
  if fault and fault.kind in HOST_KINDS and process_index == fault.process and fault.first <= step <= fault.last:
    HOST_KINDS[fault.kind]()


def loss_scale(step: jax.Array) -> jax.Array | None:
  """Factor for the loss inside the compiled step: NaN or 1e4 at the faulty steps, 1 elsewhere; None without a fault."""
  fault = wanted()
  if fault is None or fault.kind not in LOSS_KINDS:
    return None
  return jnp.where((step >= fault.first) & (step <= fault.last), jnp.float32(LOSS_KINDS[fault.kind]), jnp.float32(1))


def _terminate() -> None:
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(0.2)  # until the listening thread has it


def _raise() -> None:
  raise InjectedFaultError("injected by LLM_JAX_FAULT")
