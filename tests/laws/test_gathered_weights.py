"""FSDP by the program: losses and gradients of one device, gradients by reduce-scatter, a direction at a time.

The eight devices here have no coordinates; they are taken for a cube of two in each direction, and for a row of eight.
"""

import functools
import re

import in_process
import jax
import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.meta_learning.none import Supervised
from llm_jax.parallel import gathered, rules
from llm_jax.training.step import accumulated, mean_weighting

ACCUMULATED = dict(train=dict(accumulate=2, batch_size=16), ema=None)
MODELS = {
    "gpt": dict(name="gpt", variant="debug", width=16, depth=4, heads=4, dropout=0.0, remat="dots"),
    "llama": dict(name="decoder", variant="debug", width=16, depth=4, heads=4, kv_heads=2, head_width=4, hidden=32,
                  dropout=0.0, remat="split"),
}
MODELS["mixtral"] = MODELS["llama"] | dict(variant="debug-mixtral", experts=4)
FSDP = dict(data=1, fsdp=8)


def build(monkeypatch, model, devices=1, **mesh):
  section = dict(mesh=mesh) if mesh else {}
  return in_process.build(monkeypatch, devices, **ACCUMULATED, model=MODELS[model], **section)


def loss_and_gradients(run):
  """Sums of the first batch, in the micro-batches of the train step, jitted on the run's mesh but not yet compiled."""
  def loss_fn(params, batch, key):
    loss = mean_weighting(run.objective(run.model.apply, params, batch, None, {}), {})
    return loss.total, loss
  def step(params, batch):
    with rules.use(run.rules):
      loss, grads = accumulated(Supervised()(loss_fn, 0), params, batch, jax.random.key(0), run.train.accumulate)
    return loss.total / loss.weight, jax.tree.map(lambda g: g / loss.weight, grads)
  places = run.state_shardings.params
  return jax.jit(step, in_shardings=(places, None), out_shardings=(None, places))


@functools.cache
def reference(model):
  with pytest.MonkeyPatch.context() as monkeypatch:
    run = build(monkeypatch, model)
    return jax.device_get(loss_and_gradients(run)(run.init_state().params, run.batch(0)))


def as_cube(monkeypatch):
  monkeypatch.setattr(gathered, "links", lambda mesh, axis: (2,) * (mesh.shape[axis].bit_length() - 1))


@pytest.mark.parametrize("model, mesh", [
    ("llama", dict(data=2, fsdp=4)), *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("gpt", FSDP), ("llama", FSDP), ("mixtral", FSDP), ("mixtral", dict(data=1, expert=2, fsdp=4))))])
def test_losses_and_gradients_are_those_of_one_device(model, mesh, monkeypatch):
  as_cube(monkeypatch)
  run = build(monkeypatch, model, 8, **mesh)
  loss, grads = loss_and_gradients(run)(run.init_state().params, run.batch(0))
  wanted_loss, wanted = reference(model)
  np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
  largest = max(np.abs(grad).max() for grad in wanted.values())
  for name, grad in wanted.items():  # a bias of keys has no gradient but rounding
    scale = max(np.abs(grad).max(), 1e-3 * largest)
    np.testing.assert_allclose(grads[name], grad, rtol=1e-5, atol=1e-5 * scale, err_msg=name)


def arrays_of(operation, text):
  """Numbers of elements of the results of this operation in a compiled program."""
  found = re.findall(rf" = (.*) {operation}(?:-start)?\(", text)
  return [int(np.prod([int(n) for n in dims.split(",") if n]))
          for types in found for dims in re.findall(r"\w\[([\d,]*)\]", types)]


@pytest.mark.parametrize("model, who, summed_whole", [("llama", "auto", False), ("llama", "compiler", True),
                                                      *(pytest.param("mixtral", *case, marks=pytest.mark.slow)
                                                        for case in (("auto", False), ("compiler", True)))])
def test_gradients_of_weights_are_scattered_and_nowhere_summed_whole(model, who, summed_whole, monkeypatch):
  as_cube(monkeypatch)
  run = build(monkeypatch, model, 8, **FSDP, gather_weights=who)
  text = loss_and_gradients(run).lower(run.abstract_state.params, run.batch(0)).compile().as_text()
  kernels = {a.size // a.shape[0] for n, a in run.model.shapes.items() if n.endswith(("gate.kernel", "down.kernel"))}
  assert bool(kernels & set(arrays_of("all-reduce", text))) == summed_whole
  assert bool(arrays_of("reduce-scatter", text)) != summed_whole


def test_the_program_gathers_only_beside_copies_of_the_model(monkeypatch):
  with pytest.raises(ConfigError, match="gather_weights"):
    build(monkeypatch, "gpt", 8, data=1, fsdp=4, tensor=2, gather_weights="program")
  assert not build(monkeypatch, "gpt", 8, data=1, fsdp=4, tensor=2).rules.program_gathers
  assert build(monkeypatch, "gpt", 8, data=1, replica=2, fsdp=4, gather_weights="program").rules.program_gathers
