"""Every rule equals its published formula, written out in numpy, over three updates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.core import plugins
from llm_jax.optimizers import chain

AXES = {
    "blocks.attention.out.kernel": ("layers", "heads", "head", "embed"),
    "blocks.attention.query.kernel": ("layers", "embed", "heads", "head"),
    "blocks.norm.scale": ("layers", "norm"),
    "blocks.up.bias": ("layers", "mlp"),
    "blocks.up.kernel": ("layers", "embed", "mlp"),
    "embedding.embedding": ("vocab", "table_embed"),
    "head.kernel": ("embed", "vocab"),
}
SIZES = dict(layers=3, embed=8, heads=2, head=4, norm=8, mlp=12, vocab=10, table_embed=8)
DECAYED = {n for n in AXES if n.endswith(("kernel", "embedding"))}
PEAK = 0.01
RULES = plugins.available("optimizers")


def arrays(seed, scale=1.0):
  rng = np.random.default_rng(seed)
  return {n: np.float32(scale * rng.normal(size=[SIZES[a] for a in axes])) for n, axes in AXES.items()}


PARAMS = arrays(0)
GRADS = [arrays(1), arrays(2, 0.1), arrays(3, 3.0)]


def build(name, axes=AXES, params=PARAMS, **knobs):
  spec = dict(name=name, peak=PEAK, decay="constant", clip=None) | knobs
  return chain.build(spec, params, total_steps=10, axes=axes)


def run(optimizer, params=PARAMS, grads=GRADS):
  """Parameters after these gradients."""
  @jax.jit
  def step(g, state, params):
    updates, state = optimizer.transform.update(g, state, params)
    return optax.apply_updates(params, updates), state
  state = optimizer.transform.init(params)
  for g in grads:
    params, state = step(g, state, params)
  return params


def by_formula(direction, params=PARAMS, grads=GRADS, decay=0.0, decayed=frozenset(DECAYED)):
  """w <- w - PEAK * (direction + decay * w) in float64; direction(name, t, g, memory) keeps what it likes in memory."""
  result = {}
  for n, w in params.items():
    w, memory = np.float64(w), {}
    for t, g in enumerate(grads, start=1):
      step = direction(n, t, np.float64(g[n]), w, memory)
      w = w - PEAK * (step + (decay if n in decayed else 0.0) * w)
    result[n] = w
  return result


def adam(b1, b2, eps):
  def direction(n, t, g, w, memory):
    memory["m"] = b1 * memory.get("m", 0.0) + (1 - b1) * g
    memory["v"] = b2 * memory.get("v", 0.0) + (1 - b2) * g**2
    return memory["m"] / (1 - b1**t) / (np.sqrt(memory["v"] / (1 - b2**t)) + eps)
  return direction


def momentum(factor, nesterov):
  def direction(n, t, g, w, memory):
    memory["m"] = g + factor * memory.get("m", 0.0)
    return g + factor * memory["m"] if nesterov else memory["m"]
  return direction


def lion(b1, b2):
  def direction(n, t, g, w, memory):
    m = memory.get("m", 0.0)
    memory["m"] = b2 * m + (1 - b2) * g
    return np.sign(b1 * m + (1 - b1) * g)
  return direction


def assert_equal(got, want, atol=1e-6):
  assert got.keys() == want.keys()
  for n in want:
    np.testing.assert_allclose(got[n], want[n], rtol=1e-6, atol=atol, err_msg=n)


CASES = {
    "adamw": (dict(name="adamw", b1=0.8, b2=0.9, weight_decay=0.3), adam(0.8, 0.9, 1e-8), 0.3),
    "adamw defaults": (dict(name="adamw"), adam(0.9, 0.95, 1e-8), 0.1),
    "adam": (dict(name="adam", eps=1e-3), adam(0.9, 0.999, 1e-3), 0.0),
    "sgd": (dict(name="sgd"), momentum(0.9, False), 0.0),
    "sgd nesterov": (dict(name="sgd", momentum=0.5, nesterov=True, weight_decay=0.2), momentum(0.5, True), 0.2),
    "sgd plain": (dict(name="sgd", momentum=0.0), momentum(0.0, False), 0.0),
    "lion": (dict(name="lion", b1=0.7, weight_decay=0.5), lion(0.7, 0.99), 0.5),
}


@pytest.mark.parametrize("case", CASES)
def test_rule_equals_its_formula(case):
  spec, direction, decay = CASES[case]
  assert_equal(run(build(**spec)), by_formula(direction, decay=decay))


def test_nadam_looks_ahead():
  b1, b2 = 0.9, 0.999
  def direction(n, t, g, w, memory):
    memory["m"] = b1 * memory.get("m", 0.0) + (1 - b1) * g
    memory["v"] = b2 * memory.get("v", 0.0) + (1 - b2) * g**2
    ahead = b1 * memory["m"] / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
    return ahead / (np.sqrt(memory["v"] / (1 - b2**t)) + 1e-8)
  assert_equal(run(build("adam", nesterov=True)), by_formula(direction))


@pytest.mark.parametrize("name", RULES)
def test_zero_gradients_without_decay_move_nothing(name):
  zeros = [jax.tree.map(np.zeros_like, PARAMS)] * 2
  knobs = {} if name == "adam" else {"weight_decay": 0.0}
  assert_equal(run(build(name, **knobs), grads=zeros), PARAMS, atol=0.0)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("moment_dtype", ["float32", "bfloat16"])
def test_states_keep_their_shapes_and_are_float32_even_for_bfloat16(name, moment_dtype):
  params = {n: jax.ShapeDtypeStruct(p.shape, jnp.bfloat16) for n, p in PARAMS.items()}
  optimizer = build(name, moment_dtype=moment_dtype)
  state = jax.eval_shape(optimizer.transform.init, params)
  updates, after = jax.eval_shape(optimizer.transform.update, params, state, params)
  describe = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert describe(after) == describe(state)
  assert {u.dtype for u in updates.values()} == {jnp.dtype("float32")}
  floats = {x.dtype.name for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)}
  assert floats <= {"float32", moment_dtype}
  if name != "adafactor":  # no momentum by default
    assert moment_dtype in floats


def test_float32_moments_do_not_lose_small_bfloat16_gradients():
  """In bfloat16 a running mean stops moving when the change is below 1/256 of it."""
  params = {"w.kernel": jnp.ones((4, 4), jnp.bfloat16)}
  grads = [{"w.kernel": jnp.full((4, 4), 1.0, jnp.bfloat16)}] * 50
  optimizer = build("lion", axes=None, params=params, b2=0.999)
  state = optimizer.transform.init(params)
  update = jax.jit(optimizer.transform.update)
  for g in grads:
    _, state = update(g, state, params)
  np.testing.assert_allclose(optax.tree.get(state, "mu")["w.kernel"], 1 - 0.999**50, rtol=1e-4)


@pytest.mark.parametrize("name", RULES)
def test_moments_take_their_parameters_sharding(name):
  """`optax.tree.map_params` finds each moment's parameter; what has another shape is to be held whole."""
  optimizer = build(name)
  abstract = jax.eval_shape(optimizer.transform.init, PARAMS)
  names = {n: n for n in PARAMS}
  place = lambda leaf, n: n if leaf.shape == PARAMS[n].shape else "whole"
  placed = optax.tree.map_params(optimizer.transform, place, abstract, names, transform_non_params=lambda _: "whole")
  assert jax.tree.structure(placed) == jax.tree.structure(abstract)
  for (path, leaf), where in zip(jax.tree.leaves_with_path(abstract), jax.tree.leaves(placed)):
    if where == "whole":
      assert leaf.ndim <= 1  # a count, or a stand-in for a moment that is not kept
    else:
      assert path[-1].key == where and leaf.shape == PARAMS[where].shape


@pytest.mark.parametrize("name", RULES)
def test_a_stack_is_trained_as_its_layers_apart(name):
  """The same three layers, stacked or as three parameters each: the same updates (clipping is global either way)."""
  knobs = {"min_size": 4} if name == "adafactor" else {}
  apart = lambda tree: {f"{n}.{i}": x[i] for n, x in tree.items() if n.startswith("blocks") for i in range(3)}
  stacked = {n: x for n, x in PARAMS.items() if n.startswith("blocks")}
  rename = lambda tree: {n.replace("blocks.", "").rsplit(".", 2)[0] + f".{n[-1]}." + n.rsplit(".", 2)[1]: x
                         for n, x in tree.items()}
  own_axes = rename({f"{n}.{i}": AXES[n][1:] for n in stacked for i in range(3)})
  keep = lambda tree: {n: tree[n] for n in stacked}
  together = run(build(name, params=stacked, **knobs, axes={n: AXES[n] for n in stacked}), stacked,
                 [keep(g) for g in GRADS])
  separate = run(build(name, params=rename(apart(PARAMS)), axes=own_axes, **knobs), rename(apart(PARAMS)),
                 [rename(apart(g)) for g in GRADS])
  assert_equal(rename(apart(together)), separate, atol=2e-6)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_lowers_a_least_squares_loss(name):
  rng = np.random.default_rng(5)
  x, target = np.float32(rng.normal(size=(64, 8))), np.float32(rng.normal(size=(8, 12)))
  loss = lambda p: jnp.mean((x @ p["up.kernel"] - x @ target) ** 2)
  params = {"up.kernel": np.float32(0.1 * rng.normal(size=(8, 12)))}
  knobs = {} if name == "adam" else {"weight_decay": 0.0}
  optimizer = build(name, axes=None, params=params, peak=0.05, **knobs)
  state, first = optimizer.transform.init(params), loss(params)
  @jax.jit
  def step(params, state):
    updates, state = optimizer.transform.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state
  for _ in range(60):
    params, state = step(params, state)
  assert loss(params) < 0.5 * first
