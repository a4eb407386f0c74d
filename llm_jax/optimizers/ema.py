"""Exponential moving average of weights (Polyak and Juditsky 1992), as a pure function of the step.

A constant decay remembers the random start for a long time. Two ways out, neither with a counter of its own: 'warmup'
lets the decay grow with the step, 'debias' makes the average exactly the weighted mean of the parameters seen so far.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

Start = Literal["warmup", "debias", "none"]


def effective_decay(decay: Any, step: Any, start: Start = "warmup") -> Any:
  """The decay of the update number `step`, counted from 0.

  warmup: min(decay, (1 + t) / (10 + t)); debias: d (1 - d ** t) / (1 - d ** (t + 1)), which is Adam's bias correction
  folded into the running value; none: decay.
  """
  t = jnp.asarray(step, jnp.float32)
  if start == "warmup":
    return jnp.minimum(decay, (1 + t) / (10 + t))
  if start == "debias":
    return decay * (1 - decay**t) / (1 - decay ** (t + 1))
  return jnp.asarray(decay, jnp.float32)


def update(ema: Mapping[str, jax.Array], params: Mapping[str, jax.Array], decay: Any, step: Any,
           start: Start = "warmup") -> dict[str, jax.Array]:
  """d * ema + (1 - d) * params, in float32.

  Args:
    ema: averages so far, by the same names; before the first update the initial parameters (or zeros with 'debias').
    params: parameters after the update number `step`, counted from 0.
    decay: 0 <= decay < 1.
    step: number of this update, may be traced.
    start: see `effective_decay`.
  """
  d = effective_decay(decay, step, start)
  # In this form an average that has arrived stays put bit for bit.
  return {n: a + (1 - d) * (params[n].astype(jnp.float32) - a) for n, a in ema.items()}
