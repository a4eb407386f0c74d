"""Learning to reweight and Meta-Weight-Net against their definitions, on quadratic losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadratic import SIZE, context, loss_fn

from llm_jax.core.example_weights import applied
from llm_jax.core.types import Loss, Losses
from llm_jax.meta_learning import meta_weight_net, reweight


@pytest.fixture
def task():
  random = np.random.default_rng(0)
  def part(rows):
    root = random.normal(size=(1, rows, SIZE, SIZE))
    return {"matrix": root @ root.transpose(0, 1, 3, 2) / SIZE, "centre": 3.0 * random.normal(size=(1, rows, SIZE)),
            "weights": np.ones((1, rows))}
  return {"support": part(6), "query": part(3)}, random.normal(size=SIZE)


def gradients(part, theta):
  return np.einsum("bij,bj->bi", part["matrix"][0], theta - part["centre"][0])


def test_an_example_counts_by_how_far_its_gradient_agrees_with_the_clean_one(task):
  batch, theta = task
  with jax.enable_x64(True):
    learner = reweight.build(context())
    loss, grads = jax.jit(learner(loss_fn, 0))({"theta": jnp.asarray(theta)}, batch, jax.random.key(0))
  support, clean = gradients(batch["support"], theta), gradients(batch["query"], theta).sum(0)
  agree = np.maximum(support @ clean, 0.0)
  assert (agree == 0).any() and (agree > 0).any()
  want = 6 * agree / agree.sum() @ support
  np.testing.assert_allclose(grads["theta"], want, rtol=1e-5)
  assert float(loss.weight) == 6


def test_the_weight_network_learns_from_the_clean_loss_one_step_ahead(task):
  batch, theta = task
  lr = 0.1
  learner = meta_weight_net.build(context(), lr=lr, hidden=4)
  with jax.enable_x64(True):
    params = {"theta": jnp.asarray(theta)} | {n: jnp.asarray(e.init(jax.random.key(i)), "float64")
                                             for i, (n, e) in enumerate(learner.extras.items())}
    _, grads = jax.jit(learner(loss_fn, 0))(params, batch, jax.random.key(0))
    support = gradients(batch["support"], theta)
    off = theta - batch["support"]["centre"][0]
    losses = jnp.asarray(0.5 * np.einsum("bi,bij,bj->b", off, batch["support"]["matrix"][0], off))
    def ahead(net):
      moved = theta - lr / 6 * meta_weight_net.weigh(net, losses) @ support
      one = {n: a[0] for n, a in batch["query"].items()}
      return loss_fn({"theta": moved}, one, None)[0] / 3 * 6
    net = {n: p for n, p in params.items() if n != "theta"}
    want = jax.jit(jax.grad(ahead))(net)
    np.testing.assert_allclose(grads["theta"], meta_weight_net.weigh(net, losses) @ support, rtol=1e-6)
    for n in net:
      np.testing.assert_allclose(grads[n], want[n], rtol=1e-5, atol=1e-12)


def repeated(params, batch, key):
  """`loss_fn` with the value of an example once for each of its weights (B, targets)."""
  off = params["theta"] - batch["centre"]
  values = 0.5 * jnp.einsum("bi,bij,bj->b", off, batch["matrix"], off)
  losses = applied(Losses(values[:, None] * jnp.ones(batch["weights"].shape), batch["weights"], {}), batch)
  total = (losses.values * losses.weights).sum()
  return total, Loss(total, losses.weights.sum(), {})


def test_what_an_example_counts_does_not_depend_on_its_number_of_targets(task):
  """The mean loss of an example is judged: repeating it, each example another number of times, changes no verdict."""
  batch, theta = task
  counts = np.array([1, 5, 2, 3, 4, 2])
  many = {part: {**rows, "weights": np.ones((*rows["weights"].shape, 5))} for part, rows in batch.items()}
  many["support"]["weights"] = (np.arange(5) < counts[:, None]).astype(float)[None]
  learner = meta_weight_net.build(context(), lr=0.1, hidden=4)
  key = jax.random.key(0)
  with jax.enable_x64(True):
    params = {"theta": jnp.asarray(theta)} | {n: jnp.asarray(e.init(jax.random.key(i)), "float64")
                                             for i, (n, e) in enumerate(learner.extras.items())}
    loss, grads = jax.jit(learner(loss_fn, 0))(params, batch, key)
    more, repeats = jax.jit(learner(repeated, 0))(params, many, key)
    share = jax.jit(reweight.build(context())(repeated, 0))({"theta": params["theta"]}, many, key)[1]["theta"]
  assert float(loss.weight) == 6 and float(more.weight) == counts.sum()
  for n in learner.extras:
    np.testing.assert_allclose(np.asarray(repeats[n]) / counts.sum(), np.asarray(grads[n]) / 6, rtol=1e-6, atol=1e-14)
  support, clean = gradients(batch["support"], theta), gradients(batch["query"], theta).sum(0)
  agree = np.maximum(support @ clean, 0.0)
  np.testing.assert_allclose(share, 6 * (agree / agree.sum() * counts) @ support, rtol=1e-5)
