"""Preferences over random tokens, and a network of one table and one head that is read beside its reference."""

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core.output import Output
from llm_jax.core.row_parts import COMPLETION, PADDING, PROMPT

V, L, D = 40, 12, 6


def rows(name: str, count: int, seed: int) -> dict[str, jax.Array]:
  """`count` rows of prompt and completion of many lengths, by the names of a field and its parts."""
  random = np.random.default_rng(seed)
  parts = np.full((count, L), PADDING, np.int32)
  for row in parts:
    start, end = random.integers(1, 5), random.integers(6, L + 1)
    row[:start], row[start:end] = PROMPT, COMPLETION
  tokens = np.where(parts == PADDING, 0, random.integers(0, V, parts.shape)).astype(np.int32)
  return {name: jnp.asarray(tokens), f"{name}_parts": jnp.asarray(parts)}


def batch(count: int = 4) -> dict[str, jax.Array]:
  """Pairs and judged completions in one."""
  made = rows("chosen", count, 0) | rows("rejected", count, 1) | rows("completion", count, 2)
  return made | rows("mismatched", count, 3) | {
      "label": jnp.arange(count) % 3 > 0, "margin": jnp.linspace(0.0, 1.0, count), "weights": jnp.ones(count)}


def params(seed: int = 0) -> dict[str, jax.Array]:
  """Weights of the network."""
  table, head = jax.random.split(jax.random.key(seed))
  return {"table": jax.random.normal(table, (V, D)), "head": jax.random.normal(head, (D, V))}


def apply(params: dict[str, jax.Array], *, input_ids: jax.Array, segment_ids=None, key=None) -> Output:
  """The scores of the token after each one, from that one alone."""
  return Output(params["table"][input_ids], lambda hidden: hidden @ params["head"])


def beside(reference: dict[str, jax.Array]):
  """The apply of a reference with these weights, whatever params it is given."""
  return lambda given, **inputs: apply(reference, **inputs)
