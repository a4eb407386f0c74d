"""Scores that depend on the distance between a key and a query, without a gather over all (L, M) pairs.

There are only L + M - 1 distances, so what belongs to a distance is computed once for each and then laid out by a
reshape, whose backward pass is a reshape and a sum (Dai et al. 2019, appendix B).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llm_jax.core.model import parameter
from llm_jax.layers.linear import normal


def by_distance(x_LR: jax.Array, keys: int) -> jax.Array:
  """What column p of x (..., L, L + M) says of key - query = p - L, for every pair -> (..., L, M).

  Column 0, the distance -L, is never read: it makes the rows one longer than the result's, and so shifts each by one.
  """
  *lead, L, R = x_LR.shape
  return x_LR.reshape(*lead, L * R)[..., L:].reshape(*lead, L, R - 1)[..., :keys]


def bucket(distance: jax.Array, *, bidirectional: bool, buckets: int, furthest: int) -> jax.Array:
  """The bucket of each key - query (Raffel et al. 2020, section 2.1): near distances have one each, further ones share
  logarithmically wider ones up to `furthest`. bidirectional: half of the buckets are for keys ahead of the query; else
  those are all in bucket 0."""
  ahead = jnp.zeros_like(distance)
  if bidirectional:
    buckets //= 2
    ahead = jnp.where(distance > 0, buckets, 0)
    distance = jnp.abs(distance)
  else:
    distance = jnp.maximum(-distance, 0)
  starts = np.concatenate([np.arange(1, buckets // 2 + 1), _far_starts(buckets, furthest)])
  return ahead + (distance[..., None] >= starts).sum(-1)


def _far_starts(buckets: int, furthest: int) -> np.ndarray:
  """The first distance of each bucket that several distances share, after the first such one."""
  exact = buckets // 2
  distances = np.arange(exact, furthest + 1)
  ratio = np.log(distances.astype(np.float32) / exact) / np.float32(math.log(furthest / exact))
  of_distance = exact + (ratio * np.float32(buckets - exact)).astype(np.int32)
  return np.asarray([distances[np.argmax(of_distance >= b)] for b in range(exact + 1, buckets)], np.int32)


class BucketBias(nnx.Module):
  """A learned number for each head and bucket of distances, added to the scores of a whole stack of layers (T5)."""

  def __init__(self, rngs: nnx.Rngs, buckets: int, heads: int, *, furthest: int, bidirectional: bool,
               deviation: float = 0.02):
    self.buckets, self.furthest, self.bidirectional = buckets, furthest, bidirectional
    self.embedding = parameter(rngs, (buckets, heads), (None, "heads"), normal(deviation))

  def __call__(self, queries: int, keys: int, offset: jax.Array | int = 0) -> jax.Array:
    """-> (1, H, L, M) float32; offset: slot of the first query among the keys."""
    distance_R = jnp.arange(-queries, keys) - offset
    of_bucket = bucket(distance_R, bidirectional=self.bidirectional, buckets=self.buckets, furthest=self.furthest)
    values_HR = jnp.take(self.embedding[...], of_bucket, axis=0).T
    every_HLR = jnp.broadcast_to(values_HR[:, None], (values_HR.shape[0], queries, values_HR.shape[1]))
    return by_distance(every_HLR, keys)[None]
