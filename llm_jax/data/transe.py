"""Vectors of a knowledge graph's entities: TransE (Bordes et al. 2013), where head + relation lies near tail.

Trained here by the paper's algorithm 1: a true triple has to be nearer by a margin than one with its head or tail
exchanged for a random entity; entities are put back on the unit sphere before every step. One compiled loop; a graph of
ten thousand triples takes seconds.
"""

import dataclasses
import pathlib
from functools import partial

import numpy as np
from absl import logging

from llm_jax.core.errors import ConfigError
from llm_jax.data import sealed_folder
from llm_jax.data.fingerprint import digest
from llm_jax.data.knowledge_graph import KnowledgeGraph

VECTORS = "entities.npy"


@dataclasses.dataclass(frozen=True)
class TransE:
  """See `settings`."""

  width: int
  epochs: int
  batch: int
  rate: float
  margin: float


def settings(*, width: int = 32, epochs: int = 200, batch: int = 512, rate: float = 0.01,
             margin: float = 1.0) -> TransE:
  """How the vectors are trained.

  Args:
    width: of the vectors.
    epochs: passes over the triples.
    batch: triples in a step.
    rate: of SGD on the sum over a batch.
    margin: by which a true triple has to be nearer than a wrong one.

  Raises:
    ConfigError: a number that is not above 0.
  """
  given = dict(width=width, epochs=epochs, batch=batch, rate=rate, margin=margin)
  for name, value in given.items():
    if value <= 0:
      raise ConfigError(f"config.data.transe.{name}", f"got {value}", accepted="a number above 0")
  return TransE(width, epochs, batch, rate, margin)


def vectors_of(graph: KnowledgeGraph, settings: TransE, cache_dir: pathlib.Path) -> np.ndarray:
  """(entities, width) float32 of unit length, trained once and kept under the cache folder by fingerprint."""
  key = digest("transe", 1, graph.fingerprint, dataclasses.asdict(settings))

  def build(folder: pathlib.Path) -> None:
    logging.info("training TransE on a %s", graph.description)
    np.save(folder / VECTORS, train(graph, settings)[0])
  return np.load(sealed_folder.open_or_build(cache_dir / f"transe-{key[:16]}", build) / VECTORS)


def train(graph: KnowledgeGraph, settings: TransE) -> tuple[np.ndarray, np.ndarray]:
  """-> (entities (N, W), relations (R, W)), float32, the same for the same graph and settings."""
  import jax
  import jax.numpy as jnp

  bound, count = 6 / settings.width**0.5, len(graph.entities)
  unit = lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
  steps = -(-len(graph.triples) // settings.batch)
  triples = jnp.asarray(graph.triples)

  def loss(tables, true, wrong):
    distance = lambda t: jnp.linalg.norm(tables[0][t[:, 0]] + tables[1][t[:, 1]] - tables[0][t[:, 2]] + 1e-9, axis=-1)
    return jax.nn.relu(settings.margin + distance(true) - distance(wrong)).sum()

  def step(tables, key):
    pick, side, other = jax.random.split(key, 3)
    true = triples[jax.random.randint(pick, (settings.batch,), 0, len(triples))]
    random = jax.random.randint(other, (settings.batch,), 0, count)
    column = jnp.where(jax.random.bernoulli(side, 0.5, (settings.batch,)), 0, 2)
    wrong = true.at[jnp.arange(settings.batch), column].set(random)
    tables = (unit(tables[0]), tables[1])
    grads = jax.grad(loss)(tables, true, wrong)
    return jax.tree.map(lambda x, g: x - settings.rate * g, tables, grads), None

  @partial(jax.jit, static_argnums=1)
  def run(key, steps):
    keys = jax.random.split(key, 3)
    draw = lambda key, rows: jax.random.uniform(key, (rows, settings.width), minval=-bound, maxval=bound)
    tables = (draw(keys[0], count), unit(draw(keys[1], len(graph.relations))))
    tables, _ = jax.lax.scan(step, tables, jax.random.split(keys[2], steps))
    return unit(tables[0]), tables[1]
  return jax.device_get(run(jax.random.key(0), steps * settings.epochs))
