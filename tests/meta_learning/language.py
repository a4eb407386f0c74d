"""A two-layer language model over a few tokens, and episodes of random text for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.meta_learning.context import Context
from llm_jax.models import gpt
from llm_jax.objectives import causal_lm
from llm_jax.training.step import mean_weighting

LENGTH, VOCAB = 8, 11


@functools.cache
def model(**changes):
  sizes = dict(vocab_size=VOCAB, positions=LENGTH, width=16, depth=2, heads=2) | changes
  return gpt.from_config(gpt.GPTConfig(**sizes))


def context(model, **functions):
  return Context(model.shapes, model.logical_axes, **functions)


def loss_of(model):
  objective = causal_lm.build()
  def loss_fn(params, batch, key):
    loss = mean_weighting(objective(model.apply, params, batch, key, {}), {})
    return loss.total, loss
  return loss_fn


def episodes(tasks=2, support=4, query=4, length=LENGTH, vocab=VOCAB, seed=0):
  random = np.random.default_rng(seed)
  def part(rows):
    tokens = random.integers(0, vocab, (tasks, rows, length + 1)).astype(np.int32)
    weights = (random.random((tasks, rows, length)) < 0.8).astype(np.float32)
    return {"tokens": tokens[..., :-1], "targets": tokens[..., 1:], "weights": weights}
  return {"support": part(support), "query": part(query)}


def params(model, seed=1):
  """Kernels large enough that attention and activations are not linear; made without a compiled program."""
  random = np.random.default_rng(seed)
  scale = {"kernel": 0.2, "embedding": 0.2, "bias": 0.1, "scale": 0.1}
  made = {n: random.normal(size=s.shape) * scale[n.rsplit(".", 1)[-1]] for n, s in model.shapes.items()}
  return {n: (a + n.endswith("scale")).astype(np.float32) for n, a in made.items()}


def compiled(function, *arguments):
  """Compiled without optimisation: these programs are large and run once or twice."""
  return jax.jit(function).lower(*arguments).compile(compiler_options={"xla_backend_optimization_level": 0})


def norm(tree):
  return float(jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(tree))))


def difference(a, b):
  """Relative difference of two gradients as vectors."""
  return norm(jax.tree.map(lambda x, y: np.asarray(x, np.float64) - np.asarray(y, np.float64), a, b)) / norm(b)
