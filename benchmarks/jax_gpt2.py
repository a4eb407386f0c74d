"""Our side of the training benchmark: the train step that `python -m llm_jax.train` jits, on one fixed batch."""

import pathlib
import sys

import worker

if __name__ == "__main__":
  SPEC = worker.read_spec()
  sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from llm_jax.meta_learning.none import Supervised
from llm_jax.models import gpt
from llm_jax.objectives import causal_lm
from llm_jax.optimizers import chain
from llm_jax.parallel import compiler
from llm_jax.training import guard
from llm_jax.training.state import initializer
from llm_jax.training.step import make_train_step


def make_step(spec):
  """One train step of GPT-2 -> its loss."""
  model = gpt.build(spec["vocab"], spec["length"], width=spec["width"], depth=spec["depth"], heads=spec["heads"],
                    positions=spec["length"], dtype=spec["dtype"], scan=spec["scan"], attention=spec["attention"],
                    act="gelu_new" if spec["gelu"] == "tanh" else "gelu")
  tokens = jax.random.randint(jax.random.key(1), (spec["batch"], spec["length"] + 1), 0, spec["vocab"])
  batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": jnp.ones(tokens[:, 1:].shape)}
  return stepper(model, causal_lm.build(), batch)


def stepper(model, objective, batch):
  """One train step of this model on this batch -> its loss: forward, backward, guard, clip to norm 1, AdamW."""
  optimizer = chain.build_optimizer(dict(name="adamw", peak=1e-3, b2=0.99, weight_decay=0.1, clip=1.0), model.shapes,
                                    total_steps=10_000, axes=model.logical_axes)
  watch = guard.build()
  one_device = Mesh(np.array(jax.devices()[:1]), ("data",))
  train_step = jax.jit(
      make_train_step(model.apply, objective, Supervised(), optimizer.transform, schedule=optimizer.schedule,
                      guard=watch), donate_argnums=0, compiler_options=compiler.options(one_device))
  state = jax.jit(initializer(model.init, optimizer, watch, ema=False))(jax.random.key(0))

  def step() -> float:
    nonlocal state
    state, metrics = train_step(state, batch, {})
    return float(jax.block_until_ready((state, metrics))[1]["loss"])
  return step


if __name__ == "__main__":
  worker.serve(make_step(SPEC), {"jax": jax.__version__, "jaxlib": jax.lib.__version__})
