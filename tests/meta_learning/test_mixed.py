"""Meta steps mixed into ordinary training: each update is one or the other, by a coin that everyone throws alike."""

import jax
import jax.numpy as jnp
import numpy as np
from quadratic import SIZE, context, loss_fn, tasks

from llm_jax.meta_learning import fomaml, mixed, none

KEY = jax.random.key(0)


def test_every_update_is_the_one_or_the_other():
  batch, *_ = tasks(3)
  rows = {n: a[:, 0] for n, a in batch["query"].items()}
  params = {"theta": jnp.ones(SIZE)}
  learner = mixed.build(context(), probability=0.5, meta=dict(name="fomaml", inner_lr=0.3))
  _, meta = fomaml.build(context(), inner_lr=0.3)(loss_fn, 0)(params, batch, KEY)
  _, plain = none.build(context())(loss_fn, 0)(params, rows, KEY)
  kinds = []
  step_fn = jax.jit(lambda step: learner(loss_fn, step)(params, {**batch, **rows}, KEY)[1]["theta"])
  for step in range(12):
    got = step_fn(step)
    is_meta = bool(mixed.is_meta(step, 0.5))
    np.testing.assert_allclose(got, (meta if is_meta else plain)["theta"], rtol=1e-5)
    kinds.append(is_meta)
  assert 0 < sum(kinds) < 12
  assert abs(float(np.mean([mixed.is_meta(s, 0.25) for s in range(400)])) - 0.25) < 0.08
