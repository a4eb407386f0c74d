"""What all rules share: one flat dict of knobs, clipping, penalties, the decay mask, freezing, and exact resume."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.optimizers import chain, masks

AXES = {
    "blocks.norm.scale": ("layers", "norm"), "blocks.query.bias": ("layers", "heads", "head"),
    "blocks.query.kernel": ("layers", "embed", "heads", "head"), "embedding.embedding": ("vocab", "table_embed"),
}
SHAPES = {"blocks.norm.scale": (2, 4), "blocks.query.bias": (2, 2, 2), "blocks.query.kernel": (2, 4, 2, 2),
          "embedding.embedding": (6, 4)}
RNG = np.random.default_rng(0)
PARAMS, GRADS = ({n: np.float32(RNG.normal(size=s)) for n, s in SHAPES.items()} for _ in range(2))
MATRICES = {"blocks.query.kernel", "embedding.embedding"}


def build(total_steps=100, params=PARAMS, axes=AXES, **spec):
  spec = dict(name="sgd", peak=1.0, momentum=0.0, decay="constant", clip=None) | spec
  return chain.build(spec, params, total_steps, axes=axes)


def first_update(grads=GRADS, params=PARAMS, **spec):
  optimizer = build(**spec)
  return jax.jit(optimizer.transform.update)(grads, optimizer.transform.init(params), params)[0]


def refusal(**spec):
  with pytest.raises(ConfigError) as error:
    chain.build(spec, PARAMS, 100, axes=AXES)
  assert len(str(error.value).splitlines()) <= 10
  return error.value


def test_available_rules():
  assert plugins.available("optimizers") == ["adafactor", "adam", "adamw", "lion", "muon", "sgd"]


@pytest.mark.parametrize("name", plugins.available("optimizers"))
def test_every_knob_is_listed_once_typed_and_documented(name):
  own, shared = plugins.knobs_of(plugins.find("optimizers", name, "k").build), plugins.knobs_of(chain.assemble)
  assert not own.keys() & shared.keys()
  assert chain.knobs(name) == own | shared
  for knob in chain.knobs(name).values():
    assert knob.meaning and knob.annotation is not None, knob.name


def test_unknown_knobs_are_refused_with_the_nearest_of_both_sets():
  error = refusal(name="adamw", peak=1e-3, weight_dcay=0.1)
  assert (error.key, error.nearest) == ("config.optimizer.weight_dcay", "weight_decay")
  error = refusal(name="adamw", peak=1e-3, warmupp=10)
  assert (error.key, error.nearest) == ("config.optimizer.warmupp", "warmup")
  assert "b1" in error.accepted and "warmup" in error.accepted


@pytest.mark.parametrize(("given", "meant"), [
    ("lr", "peak"), ("learning_rate", "peak"), ("grad_clip", "clip"), ("beta2", "b2")])
def test_names_of_other_libraries_lead_to_ours(given, meant):
  assert refusal(**{"name": "adamw", "peak": 1e-3, given: 0.5}).nearest == meant


def test_names_point_at_knobs_that_exist():
  every = set().union(*(chain.knobs(n) for n in plugins.available("optimizers")))
  assert set(chain.ELSEWHERE.values()) <= every and not chain.ELSEWHERE.keys() & every


@pytest.mark.parametrize(("spec", "path"), [
    (dict(peak=1.0), "name"), (dict(name="adamv", peak=1.0), "name"), (dict(name="adamw"), "peak"),
    (dict(name="adamw", peak="fast"), "peak"), (dict(name="adamw", peak=-1.0), "peak"),
    (dict(name="adamw", peak=1.0, b1=1.0), "b1"), (dict(name="adamw", peak=1.0, decay="cosin"), "decay"),
    (dict(name="adamw", peak=1.0, weight_decay=-0.1), "weight_decay"), (dict(name="adamw", peak=1.0, clip=0.0), "clip"),
    (dict(name="adamw", peak=1.0, l1=-1.0), "l1"), (dict(name="adam", peak=1.0, weight_decay=0.1), "weight_decay"),
    (dict(name="sgd", peak=1.0, momentum=0.0, nesterov=True), "momentum"),
    (dict(name="adamw", peak=1.0, freeze="querry"), "freeze"), (dict(name="adamw", peak=1.0, freeze="."), "freeze"),
    (dict(name="adamw", peak=1.0, decay_exclude="("), "decay_exclude"), (dict(name="adam", peak=1.0, wd=0.1), "wd"),
    (dict(name="adamw", peak=1.0, warmup=101), "warmup"),
    (dict(name="adamw", peak=1.0, moment_dtype="int8"), "moment_dtype"),
])
def test_mistakes_are_refused_by_their_key(spec, path):
  assert refusal(**spec).key == f"config.optimizer.{path}"


def test_default_mask_decays_matrices_and_tables_only():
  updates = first_update(jax.tree.map(np.zeros_like, PARAMS), weight_decay=0.5)
  for n, u in updates.items():
    np.testing.assert_allclose(u, -0.5 * PARAMS[n] if n in MATRICES else np.zeros_like(u), rtol=1e-6)


def test_decay_exclude_replaces_the_default_mask():
  decayed = lambda exclude: masks.decayed(AXES, exclude, "k")
  assert decayed(None) == MATRICES
  assert decayed("embedding") == AXES.keys() - {"embedding.embedding"}
  assert decayed(("bias$", "query")) == {"blocks.norm.scale", "embedding.embedding"}
  assert decayed(()) == AXES.keys()


def test_penalties_are_gradients_of_the_masked_norms():
  penalty = lambda p: sum(0.3 * jnp.abs(p[n]).sum() + 0.7 / 2 * jnp.square(p[n]).sum() for n in MATRICES)
  want = jax.tree.map(lambda g, r: -(g + r), GRADS, jax.jit(jax.grad(penalty))(PARAMS))
  got = first_update(l1=0.3, l2=0.7)
  for n in PARAMS:
    np.testing.assert_allclose(got[n], want[n], rtol=1e-6, atol=1e-6)


def test_clipping_bounds_the_global_norm_and_keeps_the_direction():
  norm = np.sqrt(sum(np.square(np.float64(g)).sum() for g in GRADS.values()))
  np.testing.assert_allclose(chain.global_norm(GRADS), norm, rtol=1e-6)
  for limit in (0.5, 1e6):
    got = first_update(clip=limit)
    for n in GRADS:
      np.testing.assert_allclose(got[n], -GRADS[n] * min(1.0, limit / norm), rtol=1e-5)


def test_the_norm_is_summed_in_float32():
  ones = {"w.kernel": jnp.full((301, 301), 1.0, jnp.bfloat16)}
  np.testing.assert_allclose(chain.global_norm(ones), 301.0, rtol=1e-6)


def test_clipping_zero_gradients_is_not_a_nan():
  updates = first_update(jax.tree.map(np.zeros_like, PARAMS), clip=1.0)
  assert all(not np.any(np.asarray(u)) for u in updates.values())


def test_frozen_parameters_have_no_state():
  optimizer = chain.build(
      dict(name="adamw", peak=1.0, freeze=("embedding", "norm")), PARAMS, 100, axes=AXES)
  assert optimizer.frozen == {"embedding.embedding", "blocks.norm.scale"}
  assert optimizer.trainable == PARAMS.keys() - optimizer.frozen
  trained, frozen = optimizer.split(PARAMS)
  assert (trained.keys(), frozen.keys()) == (optimizer.trainable, optimizer.frozen)
  assert masks.split(PARAMS, ("embedding", "norm"))[1].keys() == frozen.keys()
  state = optimizer.transform.init(trained)
  assert optax.tree.get(state, "mu").keys() == optimizer.trainable
  assert any("frozen: 32 in 2" in note for note in optimizer.notes)


@pytest.mark.parametrize("name", plugins.available("optimizers"))
def test_shapes_suffice_to_build_and_resume_is_exact(name):
  """Built twice, from arrays and from shapes: the second continues the first's state bit for bit."""
  spec = dict(name=name, peak=1e-2, warmup=3, decay="cosine")
  shapes = {n: jax.ShapeDtypeStruct(p.shape, p.dtype) for n, p in PARAMS.items()}
  first, second = chain.build(spec, PARAMS, 20, axes=AXES), chain.build(spec, shapes, 20, axes=AXES)
  def step(optimizer, params, state):
    updates, state = optimizer.transform.update(GRADS, state, params)
    return optax.apply_updates(params, updates), state
  step_of = {id(o): jax.jit(functools.partial(step, o)) for o in (first, second)}
  def advance(optimizer, params, state, count):
    for _ in range(count):
      params, state = step_of[id(optimizer)](params, state)
    return params, state
  whole = advance(first, PARAMS, first.transform.init(PARAMS), 6)
  half = advance(first, PARAMS, first.transform.init(PARAMS), 3)
  jax.tree.map(np.testing.assert_array_equal, advance(second, *half, 3), whole)


def test_the_rate_applied_is_the_schedules():
  optimizer = build(warmup=4, decay="linear", total_steps=10, peak=0.5)
  state, ones = optimizer.transform.init(PARAMS), jax.tree.map(np.ones_like, PARAMS)
  update = jax.jit(optimizer.transform.update)
  for step in range(12):
    updates, state = update(ones, state, PARAMS)
    np.testing.assert_allclose(updates["embedding.embedding"], -optimizer.schedule(step), rtol=1e-5)


def test_horizon_replaces_the_runs_length():
  assert build(decay="linear", horizon=50).schedule(25) == build(decay="linear", total_steps=50).schedule(25)
