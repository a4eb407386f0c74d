"""A state carried from step to step: it is a longer row without the gradient, micro-batches and devices change nothing,
a resume is exact, and evaluation carries it too.
"""

import in_process
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.training.checkpoint import Checkpoints

STREAM = dict(
    model=dict(name="lstm", variant="debug", embedding=16, hidden=16), ema=None, early_stopping=None,
    data=dict(packing="stream", document_boundaries=False), guard=dict(window=0), train=dict(accumulate=1),
    optimizer=dict(name="sgd", peak=0.5, warmup=0, decay="constant", momentum=0.0))


def build(monkeypatch, devices=1, **changes):
  """The run of STREAM with {section: {knob: value}} changed; a section with a name is another plug-in altogether."""
  whole = lambda name, knobs: knobs if not isinstance(knobs, dict) or "name" in knobs else STREAM.get(name, {}) | knobs
  merged = STREAM | {name: whole(name, knobs) for name, knobs in changes.items()}
  plugins = {name: merged.pop(name) for name in ("model", "optimizer")}
  return in_process.build_from(monkeypatch, in_process.config(**merged) | plugins, devices)


@pytest.mark.parametrize("model", [{}, pytest.param(dict(
    name="xlnet", variant="debug", width=16, depth=2, heads=2, attn_type="uni", mem_len=48), marks=pytest.mark.slow)],
                         ids=["lstm", "xlnet"])
def test_steps_are_one_long_row_without_the_gradient_between(monkeypatch, model):
  run = build(monkeypatch, model=model, optimizer=dict(peak=1e-9))  # the weights stand still
  state, rows = in_process.steps(run, 3)
  ids = np.concatenate([np.asarray(run.batch(s)["tokens"]) for s in range(3)], axis=1)
  targets = np.concatenate([np.asarray(run.batch(s)["targets"]) for s in range(3)], axis=1)
  nothing = run.model.apply(state.params, *ids.shape, method="init_cache")
  output = run.model.apply(state.params, jnp.asarray(ids), cache=nothing)
  nll = -jnp.take_along_axis(jax.nn.log_softmax(output.logits), jnp.asarray(targets)[..., None], -1)[..., 0]
  L = run.train.length
  np.testing.assert_allclose([r["loss"] for r in rows], [nll[:, s * L:(s + 1) * L].mean() for s in range(3)], rtol=1e-5)
  for name, value in output.cache.items():
    np.testing.assert_allclose(state.carry[name], value, atol=1e-5)


@pytest.mark.parametrize("devices, changes", [
    (1, dict(train=dict(accumulate=4))), (8, dict(mesh=dict(data=2, fsdp=2, tensor=2)))], ids=["micro", "2x2x2"])
def test_micro_batches_and_devices_change_nothing(monkeypatch, devices, changes):
  want_state, want = in_process.steps(build(monkeypatch), 4)
  state, got = in_process.steps(build(monkeypatch, devices, **changes), 4)
  np.testing.assert_allclose([r["loss"] for r in got], [r["loss"] for r in want], rtol=1e-5)
  for name, value in want_state.carry.items():
    np.testing.assert_allclose(state.carry[name], value, atol=1e-5)


def test_a_resume_has_the_bits_of_the_run_that_went_on(monkeypatch, tmp_path):
  run = build(monkeypatch)
  state, _ = in_process.steps(run, 3)
  assert max(float(jnp.abs(a).max()) for a in state.carry.values()) > 0
  with Checkpoints(tmp_path / "checkpoints") as checkpoints:
    checkpoints.save(3, state, {})
    checkpoints.wait()
    again, _ = checkpoints.restore(3, run.abstract_state)
  bits = lambda s: {**in_process.bits(s), **{n: np.asarray(a).tobytes() for n, a in s.carry.items()}}
  assert bits(in_process.steps(run, 3, again)[0]) == bits(in_process.steps(run, 3, state)[0])


def test_evaluation_carries_the_state(monkeypatch):
  run = build(monkeypatch, evaluation=dict(batches=3))
  state = run.init_state()
  data, plan_batch = run.corpus.evals["validation"], run.train.batch_size
  want, carry = [], None
  for step in range(3):
    batch = data.take(step, run.curriculum.plan(0, {}))
    output = run.model.apply(state.params, jnp.asarray(batch["tokens"]), cache=carry)
    nll = -jnp.take_along_axis(jax.nn.log_softmax(output.logits), jnp.asarray(batch["targets"])[..., None], -1)[..., 0]
    want.append((float((nll * batch["weights"]).sum()), float(batch["weights"].sum())))
    carry = output.cache
  assert plan_batch == len(batch["tokens"])
  total, weight = map(sum, zip(*want))
  np.testing.assert_allclose(run.evaluate(state.params, state.frozen)["eval/loss"], total / weight, rtol=1e-5)


def test_models_without_a_state_take_the_rows_as_they_are_and_changing_shapes_are_refused(monkeypatch):
  run = build(monkeypatch, model=dict(name="gpt", variant="debug", width=16, depth=1, heads=2))
  assert not run.carries and in_process.steps(run, 1)[0].carry == {}
  run = build(monkeypatch, objective=dict(name="prefix_lm", form="causal"))
  assert not run.carries and "loss" in run.metric_names
  with pytest.raises(ConfigError, match="packing"):
    build(monkeypatch, curriculum=dict(name="sequence_length", start=8, until=0.5))
