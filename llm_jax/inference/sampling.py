"""From scores to the next token: repetition penalty, temperature, top-k, top-p, min-p, greedy or random.

Definitions and order are those of transformers' logits processors. Settings are traced scalars: changing one never
recompiles. Top-k and top-p find their threshold by bisection over the bits of a float, 32 passes over the scores
instead of a sort of the whole vocabulary, and exact; equal scores share a fate.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core.errors import ConfigError

Array = Any  # of jax or numpy
EOS_SLOTS = 8  # end-of-text ids are padded to a multiple of this, so that their number does not matter to the program


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How the next token is chosen.

  greedy: the highest score, after the repetition penalty; all other settings are then unused. temperature: scores are
  divided by it. top_k: only the k highest, 0 is off (Fan et al. 2018). top_p: the smallest set of highest
  probability mass >= p, 1 is off (Holtzman et al. 2020). min_p: only tokens with probability >= min_p times the
  highest, 0 is off (Nguyen et al. 2024). repetition_penalty: scores of tokens that the prompt or the text so far holds
  are divided by it where positive, multiplied where negative, 1 is off (CTRL, Keskar et al. 2019).
  """

  greedy: bool = False
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  repetition_penalty: float = 1.0

  def check(self, prefix: str = "sampling.", greedy: str = "for temperature 0 use greedy=True") -> "Sampling":
    """Itself.

    Args:
      prefix: what the user writes before a setting's name. greedy: how the user asks for temperature 0.

    Raises:
      ConfigError: a value outside its range; the message names it.
    """
    least, most = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    bounds = {"temperature": (least <= self.temperature <= most, f"a number above 0; {greedy}"),
              "top_k": (0 <= self.top_k < 2**31 and int(self.top_k) == self.top_k, "a whole number, 0 for off"),
              "top_p": (0 <= self.top_p <= 1, "between 0 and 1, 1 for off"),
              "min_p": (0 <= self.min_p <= 1, "between 0 and 1, 0 for off"),
              "repetition_penalty": (least <= self.repetition_penalty <= most, "a number above 0, 1 for off")}
    for name, (good, accepted) in bounds.items():  # no comparison holds for nan
      if not good:
        raise ConfigError(f"{prefix}{name}", f"got {getattr(self, name)!r}", accepted=accepted)
    return self


class Settings(NamedTuple):
  """A `Sampling` as arrays that enter the compiled program.

  eos (E,): ids that end a row, -1 is none; keys (B,): random keys of the rows.
  """

  greedy: Array
  temperature: Array
  top_k: Array
  top_p: Array
  min_p: Array
  repetition_penalty: Array
  eos: Array
  keys: Array


def settings(sampling: Sampling, eos_ids: Sequence[int], keys_B: jax.Array) -> Settings:
  """The arrays of these settings."""
  s = sampling.check()
  slots = -(-max(len(eos_ids), 1) // EOS_SLOTS) * EOS_SLOTS
  eos = np.full(slots, -1, np.int32)
  eos[: len(eos_ids)] = list(eos_ids)
  return Settings(np.bool_(s.greedy), np.float32(s.temperature), np.int32(s.top_k), np.float32(s.top_p),
                  np.float32(s.min_p), np.float32(s.repetition_penalty), eos, keys_B)


def penalize(scores_BV: jax.Array, seen_BV: jax.Array, penalty: jax.Array) -> jax.Array:
  """The scores of seen tokens divided by the penalty where positive and multiplied where negative."""
  return jnp.where(seen_BV, jnp.where(scores_BV < 0, scores_BV * penalty, scores_BV / penalty), scores_BV)


def keep_top_k(scores_BV: jax.Array, k: jax.Array) -> jax.Array:
  """-inf below the k-th highest score; k = 0 keeps all."""
  V = scores_BV.shape[-1]
  k = jnp.where(k == 0, V, jnp.minimum(k, V))
  order = _order(scores_BV)
  least = _largest(order, lambda c: (order >= c).sum(-1, keepdims=True) >= k)
  return jnp.where(order >= least, scores_BV, -jnp.inf)


def keep_top_p(scores_BV: jax.Array, p: jax.Array) -> jax.Array:
  """-inf for the tokens whose probability, with that of all less likely ones, is at most 1 - p; the best one stays."""
  order, probabilities = _order(scores_BV), jax.nn.softmax(scores_BV, -1)
  below = lambda c: jnp.where(order < c, probabilities, 0.0).sum(-1, keepdims=True)
  least = _largest(order, lambda c: below(c) <= 1 - p)
  least = jnp.minimum(least, order.max(-1, keepdims=True))
  return jnp.where((order >= least) | (p >= 1), scores_BV, -jnp.inf)


def keep_min_p(scores_BV: jax.Array, min_p: jax.Array) -> jax.Array:
  """-inf for tokens less likely than min_p times the likeliest."""
  likelihood = jnp.exp(scores_BV - scores_BV.max(-1, keepdims=True))
  return jnp.where(likelihood < min_p, -jnp.inf, scores_BV)


def warp(scores_BV: jax.Array, s: Settings) -> jax.Array:
  """Temperature, top-k, top-p, min-p, in this order; what is off costs nothing at run time."""
  scores = scores_BV / s.temperature
  scores = jax.lax.cond(s.top_k > 0, lambda x: keep_top_k(x, s.top_k), lambda x: x, scores)
  scores = jax.lax.cond(s.top_p < 1, lambda x: keep_top_p(x, s.top_p), lambda x: x, scores)
  return keep_min_p(scores, s.min_p)


def choose(logits_BV: jax.Array, seen_BV: jax.Array, count: jax.Array, s: Settings) -> tuple[jax.Array, jax.Array]:
  """-> (token (B,) int32, its log-probability (B,) under the model itself, before any processing).

  count: number of tokens generated so far. Random numbers depend on the row's key and this count only.
  """
  logits = logits_BV.astype(jnp.float32)
  scores = penalize(logits, seen_BV, s.repetition_penalty)
  def draw(scores: jax.Array) -> jax.Array:
    noise = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, count), scores.shape[1:]))(s.keys)
    return jnp.argmax(warp(scores, s) + noise, -1)
  token = jax.lax.cond(s.greedy, lambda scores: jnp.argmax(scores, -1), draw, scores).astype(jnp.int32)
  picked = jnp.take_along_axis(logits, token[:, None], 1)[:, 0]
  return token, picked - jax.nn.logsumexp(logits, -1)


def _order(x: jax.Array) -> jax.Array:
  """uint32 numbers in the order of the floats."""
  bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x).astype(jnp.float32), jnp.uint32)
  return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _largest(order_BV: jax.Array, holds: Callable[[jax.Array], jax.Array]) -> jax.Array:
  """(B, 1): the largest uint32 c with `holds(c)`, which is true of 0 and, once false, stays false."""
  def bit(i, c):
    candidate = c | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
    return jnp.where(holds(candidate), candidate, c)
  return jax.lax.fori_loop(0, 32, bit, jnp.zeros((*order_BV.shape[:-1], 1), jnp.uint32))
