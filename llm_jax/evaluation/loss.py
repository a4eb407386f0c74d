"""The evaluation pass: mean loss over a whole set, perplexity, and bits per byte, which compares between tokenizers."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core import likelihood
from llm_jax.core.types import Batch, Metrics, Params, Plan


class EvaluationSet(Protocol):
  """One exact pass over held-out data (data/windows.py has it)."""

  @property
  def bytes_per_token(self) -> float | None: ...  # None: the data are no text

  def batches(self, batch: int, length: int) -> int: ...

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch: ...


def evaluate(eval_step: Callable[[Params, Params, Batch], Metrics], params: Params, frozen: Params, data: EvaluationSet,
             put: Callable[[Batch], Any], plan: Plan, rows: slice | None = None,
             most: int | None = None, codes_text: bool = True, carry: Any = None) -> dict[str, float]:
  """{'loss', 'perplexity', 'bits_per_byte', the objective's own}: means over every target, weighted once at the end.

  Args:
    eval_step: jitted, returns sums (training/step.py). params, frozen: the weights. data: the set.
    put: brings this host's rows onto the devices. plan: batch and length. rows: this host's rows of each batch.
    most: at most so many batches. codes_text: the loss is that of every token, see Objective. carry: the state that
      rows carry from batch to batch, before the first; None: none.
  """
  count = data.batches(plan.batch, plan.length)
  total: Any = None
  for step in range(count if most is None else min(count, most)):
    batch = put(data.take(step, plan, rows))
    part: Any = eval_step(params, frozen, batch if carry is None else {**batch, "carry": carry})
    carry = part.pop("carry", None)
    total = part if total is None else jax.tree.map(jnp.add, total, part)
  means = {name: float(np.asarray(m.total)) / max(float(np.asarray(m.weight)), 1e-8) for name, m in total.items()}
  return {**means, **derived(likelihood.nats(means), data.bytes_per_token, codes_text)}


def derived(nats: float, bytes_per_token: float | None, codes_text: bool = True) -> Mapping[str, float]:
  """Perplexity and bits per byte of nats per token; nothing if the data are no text. Bits per byte are of the
  whole text: there are none for a loss on a part of its tokens."""
  if bytes_per_token is None:
    return {}
  found = {"perplexity": math.exp(min(nats, 700.0))}
  if bytes_per_token > 0 and codes_text:
    found["bits_per_byte"] = nats / math.log(2) / bytes_per_token
  return found
