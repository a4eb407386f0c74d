"""The meta-gradient is the same on any mesh, and second order costs about the memory of the first."""

import functools

import jax
import language
import numpy as np
import pytest

from llm_jax.meta_learning import maml
from llm_jax.parallel import mesh, tasks
from llm_jax.parallel.rules import ShardingRules, use


def sharded_run(shape, model, params, batch):
  rules = ShardingRules(mesh.make(shape))
  place = functools.partial(tasks.like_parameters, model.logical_axes)
  learner = maml.build(language.context(model, map_tasks=tasks.map_tasks, place=place), inner_steps=2, inner_lr=0.1)
  grad_fn = learner(language.loss_of(model), 0)
  places = rules.for_params(model.logical_axes, model.shapes)
  examples = rules.sharding(("tasks", "examples"))
  def step(params, batch, key):
    with use(rules):
      return grad_fn(params, batch, key)
  compiled = jax.jit(step, in_shardings=(places, examples, None), out_shardings=(None, places)).lower(
      params, batch, jax.random.key(0)).compile(compiler_options={"xla_backend_optimization_level": 0})
  arguments = jax.device_put((params, batch), (places, jax.tree.map(lambda _: examples, batch)))
  return compiled(*arguments, jax.random.key(0))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [dict(data=2, fsdp=2, tensor=2), dict(data=4, fsdp=2),
                                   dict(data=1, replica=2, context=2, expert=2)])
def test_one_device_and_a_mesh_agree(shape):
  model = language.model(vocab_size=16)
  params, batch = language.params(model), language.episodes(tasks=4, vocab=16)
  learner = maml.build(language.context(model), inner_steps=2, inner_lr=0.1)
  arguments = params, batch, jax.random.key(0)
  want_loss, want = language.compiled(learner(language.loss_of(model), 0), *arguments)(*arguments)
  loss, got = sharded_run(shape, model, params, batch)
  np.testing.assert_allclose(loss.total, want_loss.total, rtol=1e-5)
  assert language.difference(jax.device_get(got), want) < 1e-5


def temporaries(steps, **knobs):
  model = language.model(vocab_size=64, width=64, depth=4, positions=64, remat="full")
  learner = maml.build(language.context(model), inner_steps=steps, inner_lr=0.01, **knobs)
  batch = language.episodes(tasks=4, support=8, query=8, length=64, vocab=64)
  return language.compiled(learner(language.loss_of(model), 0), language.params(model), batch,
                           jax.random.key(0)).memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_hardly_grows_with_the_inner_steps_and_mixed_mode_needs_less():
  remat, more = (temporaries(k, mixed_mode=False) for k in (2, 8))
  mixed, mixed_more = (temporaries(k) for k in (2, 8))
  plain = temporaries(8, mixed_mode=False, remat=False)
  assert more <= 1.6 * remat and mixed_more <= 1.6 * mixed
  assert mixed <= 0.7 * remat and mixed_more <= 0.7 * more
  assert plain > 3 * more


@pytest.mark.slow
def test_mixed_mode_is_equal_at_eight_steps():
  model = language.model()
  params, batch = language.params(model), language.episodes()
  results = []
  for mixed in (False, True):
    learner = maml.build(language.context(model), inner_steps=8, inner_lr=0.05, mixed_mode=mixed)
    arguments = params, batch, jax.random.key(0)
    results.append(language.compiled(learner(language.loss_of(model), 0), *arguments)(*arguments)[1])
  assert language.difference(*results) < 2e-6
